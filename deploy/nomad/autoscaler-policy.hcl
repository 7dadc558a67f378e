# What the autoscaler may do: read policies, and change the number of a group.
namespace "default" {
  policy = "scale"
}
