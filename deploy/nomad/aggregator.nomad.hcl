# Two that know the same: Prometheus asks each, and queries take the larger of their answers.

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "image" {
  type    = string
  default = "ghcr.io/forebay/forebay:0.1.0"
}

job "forebay-aggregator" {
  datacenters = var.datacenters
  type        = "service"

  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "15s"
    healthy_deadline  = "5m"
    progress_deadline = "10m"
    auto_revert       = true
  }

  group "aggregator" {
    count = 2

    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    network {
      port "fleet" { to = 9600 }
    }

    service {
      name     = "forebay-aggregator"
      provider = "nomad"
      port     = "fleet"
      check {
        type     = "http"
        path     = "/health/ready"
        interval = "5s"
        timeout  = "3s"
      }
    }

    task "aggregator" {
      driver       = "docker"
      user         = "65532:65532"
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      config {
        image           = var.image
        entrypoint      = ["forebay"]
        args            = ["aggregator"]
        ports           = ["fleet"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        FOREBAY_AGGREGATOR_ADDR    = "0.0.0.0:9600"
        FOREBAY_PROCESS_NAME       = "aggregator-${NOMAD_ALLOC_INDEX}"
        FOREBAY_BROKER_WAIT        = "60s"
        FOREBAY_BROKER_CREDENTIALS = "/secrets/aggregator.nk"
        # With these two the work of a worker that dies is with another at once.
        FOREBAY_SYSTEM_CREDENTIALS = "/secrets/system.nk"
        FOREBAY_REAPER_CREDENTIALS = "/secrets/reaper.nk"
        FOREBAY_DURABILITY         = "replicated"
        FOREBAY_LOG_FORMAT         = "json"
      }

      template {
        destination = "local/broker.env"
        env         = true
        change_mode = "noop"
        data        = "FOREBAY_BROKER={{ range $index, $broker := nomadService \"forebay-nats\" }}{{ if $index }},{{ end }}nats://{{ $broker.Address }}:{{ $broker.Port }}{{ end }}"
      }

      template {
        destination = "secrets/aggregator.nk"
        perms       = "0400"
        uid         = 65532
        gid         = 65532
        data        = "{{ with nomadVar \"nomad/jobs/forebay-aggregator\" }}{{ .aggregator_nk }}{{ end }}"
      }

      template {
        destination = "secrets/system.nk"
        perms       = "0400"
        uid         = 65532
        gid         = 65532
        data        = "{{ with nomadVar \"nomad/jobs/forebay-aggregator\" }}{{ .system_nk }}{{ end }}"
      }

      template {
        destination = "secrets/reaper.nk"
        perms       = "0400"
        uid         = 65532
        gid         = 65532
        data        = "{{ with nomadVar \"nomad/jobs/forebay-aggregator\" }}{{ .reaper_nk }}{{ end }}"
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
