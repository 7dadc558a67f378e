# Workers that compute on processors. One job per model: copy the file, give the job another name, and its variable with it.

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "image" {
  type    = string
  default = "ghcr.io/forebay/forebay:0.1.0"
}

variable "model" {
  type    = string
  default = "sentence-transformers/all-MiniLM-L6-v2"
}

# The name by which clients ask for the model, and by which its figures are found.
variable "served_name" {
  type    = string
  default = "all-MiniLM-L6-v2"
}

variable "max_workers" {
  type    = number
  default = 8
}

# New workers beside the old ones during an update; 0 where there is no room for one more.
variable "canary" {
  type    = number
  default = 1
}

job "forebay-worker" {
  datacenters = var.datacenters
  type        = "service"

  # A new one first; when it takes work, the others follow one by one. SIGTERM drains each: see kill_timeout.
  update {
    max_parallel      = 1
    canary            = var.canary
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "10s"
    healthy_deadline  = "10m"
    progress_deadline = "20m"
  }

  group "worker" {
    # The first one registers the model; from then on the autoscaler decides, down to none.
    # Later runs of this file keep the number with `nomad job run -preserve-counts`.
    count = 1

    scaling {
      enabled = true
      min     = 0
      max     = var.max_workers

      policy {
        evaluation_interval = "15s"
        # forebay_desired_workers has its own hysteresis; a second one would only delay it.
        cooldown       = "30s"
        on_check_error = "ignore"

        check "desired_workers" {
          source = "prometheus"
          # Several aggregators say the same; the largest of them counts once.
          query        = "max(max without (instance, job) (forebay_desired_workers{model=\"${var.served_name}\"}))"
          query_window = "1m"

          # The wanted number is the value itself.
          strategy "pass-through" {}
        }
      }
    }

    # Models stay on the machine over an update.
    ephemeral_disk {
      size   = 20000
      sticky = true
    }

    network {
      port "metrics" { to = 9401 }
    }

    service {
      name     = "forebay-worker"
      provider = "nomad"
      port     = "metrics"
      check {
        type     = "http"
        path     = "/health/ready"
        interval = "5s"
        timeout  = "3s"
      }
    }

    restart {
      attempts = 5
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    task "worker" {
      driver = "docker"
      user   = "65532:65532"
      # Longer than FOREBAY_DRAIN_TIMEOUT: it answers what it has begun and gives the rest back. A client cuts this to its
      # max_kill_timeout, which is 30 s unless its configuration says more.
      kill_signal  = "SIGTERM"
      kill_timeout = "45s"

      config {
        image           = var.image
        entrypoint      = ["forebay"]
        args            = ["worker"]
        ports           = ["metrics"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        FOREBAY_MODEL               = var.model
        FOREBAY_SERVED_NAME         = var.served_name
        FOREBAY_DEVICE              = "cpu"
        FOREBAY_WORKER_METRICS_ADDR = "0.0.0.0:9401"
        FOREBAY_DRAIN_TIMEOUT       = "30s"
        # Not the allocation's index: a canary has that of the one that it replaces.
        FOREBAY_PROCESS_NAME       = "worker-${NOMAD_SHORT_ALLOC_ID}"
        FOREBAY_ADVERTISE_ADDR     = "${NOMAD_ADDR_metrics}"
        FOREBAY_BROKER_WAIT        = "60s"
        FOREBAY_BROKER_CREDENTIALS = "/secrets/worker.nk"
        FOREBAY_DURABILITY         = "replicated"
        FOREBAY_LOG_FORMAT         = "json"
        HF_HOME                    = "/alloc/data/models"
        # As many as the cores below.
        FOREBAY_THREADS = "4"
      }

      # Only read at the start: a broker that moves is heard of from the others.
      template {
        destination = "local/broker.env"
        env         = true
        change_mode = "noop"
        data        = "FOREBAY_BROKER={{ range $index, $broker := nomadService \"forebay-nats\" }}{{ if $index }},{{ end }}nats://{{ $broker.Address }}:{{ $broker.Port }}{{ end }}"
      }

      template {
        destination = "secrets/worker.nk"
        perms       = "0400"
        uid         = 65532
        gid         = 65532
        data        = "{{ with nomadVar \"nomad/jobs/forebay-worker\" }}{{ .worker_nk }}{{ end }}"
      }

      resources {
        cores  = 4
        memory = 4096
      }
    }
  }
}
