# Apis: as many as you like behind a load balancer, which finds them as the service `forebay-api`.

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "image" {
  type    = string
  default = "ghcr.io/forebay/forebay:0.1.0"
}

variable "count" {
  type    = number
  default = 2
}

job "forebay-api" {
  datacenters = var.datacenters
  type        = "service"

  # A new one beside the old ones first; when it takes requests, the others follow one by one.
  update {
    max_parallel      = 1
    canary            = 1
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "15s"
    healthy_deadline  = "5m"
    progress_deadline = "10m"
  }

  group "api" {
    count = var.count

    spread {
      attribute = "${node.unique.id}"
    }

    network {
      port "http" { to = 8000 }
      port "metrics" { to = 9401 }
    }

    service {
      name     = "forebay-api"
      provider = "nomad"
      port     = "http"
      check {
        type     = "http"
        path     = "/health/ready"
        interval = "5s"
        timeout  = "3s"
      }
    }

    task "api" {
      driver = "docker"
      user   = "65532:65532"
      # Nobody is sent here any more; then SIGTERM, and 30 s for the requests in flight.
      shutdown_delay = "5s"
      kill_signal    = "SIGTERM"
      kill_timeout   = "45s"

      config {
        image           = var.image
        entrypoint      = ["forebay"]
        args            = ["api"]
        ports           = ["http", "metrics"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        FOREBAY_API_ADDR     = "0.0.0.0:8000"
        FOREBAY_METRICS_ADDR = "0.0.0.0:9401"
        # Not the allocation's index: a canary has that of the one that it replaces.
        FOREBAY_PROCESS_NAME       = "api-${NOMAD_SHORT_ALLOC_ID}"
        FOREBAY_ADVERTISE_ADDR     = "${NOMAD_ADDR_metrics}"
        FOREBAY_BROKER_WAIT        = "60s"
        FOREBAY_BROKER_CREDENTIALS = "/secrets/api.nk"
        FOREBAY_API_KEYS_FILE      = "/secrets/api-keys.json"
        FOREBAY_DURABILITY         = "replicated"
        FOREBAY_LOG_FORMAT         = "json"
      }

      # Only read at the start: a broker that moves is heard of from the others.
      template {
        destination = "local/broker.env"
        env         = true
        change_mode = "noop"
        data        = "FOREBAY_BROKER={{ range $index, $broker := nomadService \"forebay-nats\" }}{{ if $index }},{{ end }}nats://{{ $broker.Address }}:{{ $broker.Port }}{{ end }}"
      }

      template {
        destination = "secrets/api.nk"
        perms       = "0400"
        uid         = 65532
        gid         = 65532
        data        = "{{ with nomadVar \"nomad/jobs/forebay-api\" }}{{ .api_nk }}{{ end }}"
      }

      # Read again by the api itself when it changes.
      template {
        destination = "secrets/api-keys.json"
        perms       = "0400"
        uid         = 65532
        gid         = 65532
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs/forebay-api\" }}{{ .api_keys }}{{ end }}"
      }

      resources {
        cpu    = 1000
        memory = 1024
      }
    }
  }
}
