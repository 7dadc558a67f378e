# Nomad's autoscaler: carries out the `scaling` blocks of the workers' jobs. It asks Prometheus, and speaks to Nomad through the
# task's own API socket with its workload identity. With ACLs on, that identity needs autoscaler-policy.hcl:
#   nomad acl policy apply -namespace default -job forebay-autoscaler forebay-autoscaler deploy/nomad/autoscaler-policy.hcl

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

job "forebay-autoscaler" {
  datacenters = var.datacenters
  type        = "service"

  group "autoscaler" {
    count = 1

    network {
      port "http" { to = 8080 }
    }

    service {
      name     = "forebay-autoscaler"
      provider = "nomad"
      port     = "http"
      check {
        type     = "http"
        path     = "/v1/health"
        interval = "10s"
        timeout  = "3s"
      }
    }

    task "autoscaler" {
      driver = "docker"

      config {
        image           = "hashicorp/nomad-autoscaler:0.5.0"
        entrypoint      = ["/bin/nomad-autoscaler"]
        args            = ["agent", "-config", "/local/autoscaler.hcl"]
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      identity {
        env = true
      }

      template {
        destination = "local/autoscaler.hcl"
        change_mode = "restart"
        data        = <<-EOT
          http {
            bind_address = "0.0.0.0"
            bind_port    = 8080
          }
          nomad {
            address = "unix:///secrets/api.sock"
          }
          apm "prometheus" {
            driver = "prometheus"
            config = {
              address = "{{ range nomadService 1 (env "NOMAD_ALLOC_ID") "forebay-prometheus" }}http://{{ .Address }}:{{ .Port }}{{ end }}"
            }
          }
          strategy "pass-through" {
            driver = "pass-through"
          }
          target "nomad-target" {
            driver = "nomad-target"
          }
        EOT
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
