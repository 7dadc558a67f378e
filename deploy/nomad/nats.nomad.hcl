# Three brokers that are one queue. Each of three clients needs a host volume in its configuration, owned by user 65532:
#   client { host_volume "forebay-nats" { path = "/var/lib/forebay-nats" } }
# With a CSI volume per broker instead: type = "csi", per_alloc = true, an access_mode and an attachment_mode in the volume block,
# and NOMAD_ALLOC_INDEX in server_name, so that name and disk stay together.

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "image" {
  type    = string
  default = "nats:2.15.0-alpine"
}

job "forebay-nats" {
  datacenters = var.datacenters
  type        = "service"
  # The queue goes before what only uses it.
  priority = 80

  # One at a time: two of three must stay, or nothing is accepted.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "30s"
    healthy_deadline  = "10m"
    progress_deadline = "20m"
    auto_revert       = true
  }

  group "nats" {
    count = 3

    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    network {
      port "client" { static = 4222 }
      port "cluster" { static = 6222 }
      port "monitor" { static = 8222 }
      port "metrics" { to = 7777 }
    }

    volume "data" {
      type   = "host"
      source = "forebay-nats"
    }

    service {
      name     = "forebay-nats"
      provider = "nomad"
      port     = "client"
      check {
        type     = "http"
        port     = "monitor"
        path     = "/healthz?js-server-only=true"
        interval = "10s"
        timeout  = "3s"
      }
    }

    service {
      name     = "forebay-nats-cluster"
      provider = "nomad"
      port     = "cluster"
    }

    service {
      name     = "forebay-nats-metrics"
      provider = "nomad"
      port     = "metrics"
    }

    task "nats" {
      driver = "docker"
      user   = "65532:65532"
      # Lame duck mode: clients move to the other brokers, then it ends by itself. The timeout is longer than that.
      kill_signal  = "SIGUSR2"
      kill_timeout = "60s"

      config {
        image           = var.image
        entrypoint      = ["nats-server"]
        args            = ["--config", "/secrets/nats.conf"]
        ports           = ["client", "cluster", "monitor"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      # The broker's name belongs to its disk, so it is the machine's.
      template {
        destination   = "secrets/nats.conf"
        perms         = "0400"
        uid           = 65532
        gid           = 65532
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<-EOT
          server_name: "nats-{{ env "node.unique.name" }}"
          listen: "0.0.0.0:4222"
          http: "0.0.0.0:8222"
          client_advertise: "{{ env "NOMAD_ADDR_client" }}"
          max_payload: 1MB
          lame_duck_grace_period: 5s
          lame_duck_duration: 30s
          include ./accounts.conf
          cluster {
            name: forebay
            listen: "0.0.0.0:6222"
            cluster_advertise: "{{ env "NOMAD_ADDR_cluster" }}"
            # Its own address as well: a broker without any route would not become part of a cluster.
            routes: [
              "nats://{{ env "NOMAD_ADDR_cluster" }}"
              {{- range nomadService "forebay-nats-cluster" }}
              {{- if ne .Address (env "NOMAD_IP_cluster") }}
              "nats://{{ .Address }}:{{ .Port }}"
              {{- end }}
              {{- end }}
            ]
          }
          jetstream {
            store_dir: "/data"
            # Streams reserve their bounds when they are created: 1 GiB per model and 26 GiB beside it.
            max_file_store: 60GB
            max_memory_store: 256MB
            cipher: chachapoly
            key: $FOREBAY_STORE_KEY
          }
        EOT
      }

      template {
        destination   = "secrets/accounts.conf"
        perms         = "0400"
        uid           = 65532
        gid           = 65532
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = "{{ with nomadVar \"nomad/jobs/forebay-nats\" }}{{ .accounts_conf }}{{ end }}"
      }

      template {
        destination = "secrets/store.env"
        env         = true
        change_mode = "noop"
        data        = "FOREBAY_STORE_KEY={{ with nomadVar \"nomad/jobs/forebay-nats\" }}{{ .store_key }}{{ end }}"
      }

      resources {
        cpu    = 1000
        memory = 1024
      }
    }

    # What nats-server says of itself, as Prometheus reads it.
    task "exporter" {
      driver = "docker"
      user   = "65534:65534"

      lifecycle {
        hook    = "poststart"
        sidecar = true
      }

      config {
        image           = "natsio/prometheus-nats-exporter:0.17.3"
        args            = ["-port=7777", "-varz", "-jsz=all", "http://${NOMAD_ADDR_monitor}"]
        ports           = ["metrics"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
