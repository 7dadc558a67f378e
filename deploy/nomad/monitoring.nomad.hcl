# Prometheus, Alertmanager and Grafana on one client, which needs three host volumes in its configuration:
#   client {
#     host_volume "forebay-prometheus"   { path = "/var/lib/forebay-prometheus" }      # owned by 65534
#     host_volume "forebay-alertmanager" { path = "/var/lib/forebay-alertmanager" }    # owned by 65534
#     host_volume "forebay-grafana"      { path = "/var/lib/forebay-grafana" }         # owned by 472
#   }
# Rules, dashboards and Alertmanager's configuration come from the repository, at the version given. The group shares one network
# (mode bridge, which needs the CNI plugins), so the three find each other at 127.0.0.1.

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

# What `artifact` can fetch: a git repository, or an archive on a server of yours; it must hold a folder monitoring/.
variable "source" {
  type    = string
  default = "git::https://github.com/forebay/forebay.git?ref=v0.1.0&depth=1"
}

variable "retention" {
  type    = string
  default = "30d"
}

# The names of five other stacks as well: those of compat-1.yml to compat-5.yml.
variable "compat_rules" {
  type    = bool
  default = false
}

job "forebay-monitoring" {
  datacenters = var.datacenters
  type        = "service"

  group "monitoring" {
    count = 1

    network {
      mode = "bridge"
      port "prometheus" { static = 9090 }
      port "alertmanager" { static = 9093 }
      port "grafana" { static = 3000 }
    }

    volume "prometheus" {
      type   = "host"
      source = "forebay-prometheus"
    }

    volume "alertmanager" {
      type   = "host"
      source = "forebay-alertmanager"
    }

    volume "grafana" {
      type   = "host"
      source = "forebay-grafana"
    }

    service {
      name     = "forebay-prometheus"
      provider = "nomad"
      port     = "prometheus"
      check {
        type     = "http"
        path     = "/-/ready"
        interval = "10s"
        timeout  = "3s"
      }
    }

    service {
      name     = "forebay-alertmanager"
      provider = "nomad"
      port     = "alertmanager"
      check {
        type     = "http"
        path     = "/-/ready"
        interval = "10s"
        timeout  = "3s"
      }
    }

    service {
      name     = "forebay-grafana"
      provider = "nomad"
      port     = "grafana"
      check {
        type     = "http"
        path     = "/api/health"
        interval = "10s"
        timeout  = "3s"
      }
    }

    task "prometheus" {
      driver       = "docker"
      user         = "65534:65534"
      kill_timeout = "60s"

      artifact {
        source      = var.source
        destination = "local/forebay"
      }

      config {
        image           = "prom/prometheus:v3.14.0"
        args            = ["--config.file=/local/prometheus.yml", "--storage.tsdb.path=/prometheus", "--storage.tsdb.retention.time=${var.retention}"]
        ports           = ["prometheus"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      volume_mount {
        volume      = "prometheus"
        destination = "/prometheus"
      }

      env {
        COMPAT_RULES = "${var.compat_rules}"
      }

      # The same jobs and labels as monitoring/prometheus/prometheus.yml, found as Nomad's services.
      template {
        destination   = "local/prometheus.yml"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<-EOT
          global:
            scrape_interval: 15s
            evaluation_interval: 15s
            external_labels:
              stack: forebay
          rule_files:
            - /local/forebay/monitoring/prometheus/rules/[^c]*.yml
            - /local/forebay/monitoring/prometheus/rules/c[^o]*.yml
          {{- if eq (env "COMPAT_RULES") "true" }}
            - /local/forebay/monitoring/prometheus/rules/compat-*.yml
          {{- end }}
          alerting:
            alertmanagers:
              - static_configs:
                  - targets: ["127.0.0.1:9093"]
          scrape_configs:
            # Each aggregator is a target of its own, and each knows every api and worker.
            - job_name: forebay-aggregator
              static_configs:
                - targets: [{{ range $index, $one := nomadService "forebay-aggregator" }}{{ if $index }}, {{ end }}"{{ $one.Address }}:{{ $one.Port }}"{{ end }}]
            - job_name: forebay
              http_sd_configs:
              {{- range nomadService "forebay-aggregator" }}
                - url: "http://{{ .Address }}:{{ .Port }}/sd"
                  refresh_interval: 15s
              {{- end }}
            - job_name: nats
              static_configs:
                - targets: [{{ range $index, $one := nomadService "forebay-nats-metrics" }}{{ if $index }}, {{ end }}"{{ $one.Address }}:{{ $one.Port }}"{{ end }}]
            # Where the exporters run as Nomad services with these names; nowhere else a target.
            - job_name: node
              static_configs:
                - targets: [{{ range $index, $one := nomadService "node-exporter" }}{{ if $index }}, {{ end }}"{{ $one.Address }}:{{ $one.Port }}"{{ end }}]
            - job_name: cadvisor
              static_configs:
                - targets: [{{ range $index, $one := nomadService "cadvisor" }}{{ if $index }}, {{ end }}"{{ $one.Address }}:{{ $one.Port }}"{{ end }}]
            - job_name: dcgm
              static_configs:
                - targets: [{{ range $index, $one := nomadService "dcgm-exporter" }}{{ if $index }}, {{ end }}"{{ $one.Address }}:{{ $one.Port }}"{{ end }}]
            - job_name: prometheus
              static_configs:
                - targets: ["127.0.0.1:9090"]
            - job_name: alertmanager
              static_configs:
                - targets: ["127.0.0.1:9093"]
            - job_name: grafana
              static_configs:
                - targets: ["127.0.0.1:3000"]
        EOT
      }

      resources {
        cpu    = 500
        memory = 2048
      }
    }

    task "alertmanager" {
      driver = "docker"
      user   = "65534:65534"

      artifact {
        source      = var.source
        destination = "local/forebay"
      }

      config {
        image           = "prom/alertmanager:v0.34.1"
        args            = ["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager", "--cluster.listen-address="]
        ports           = ["alertmanager"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        mount {
          type     = "bind"
          source   = "local/forebay/monitoring/alertmanager"
          target   = "/etc/alertmanager"
          readonly = true
        }
        mount {
          type     = "bind"
          source   = "secrets/alertmanager"
          target   = "/etc/alertmanager/secrets"
          readonly = true
        }
      }

      volume_mount {
        volume      = "alertmanager"
        destination = "/alertmanager"
      }

      # A secret that is not there costs its receiver, nothing else.
      template {
        destination = "secrets/alertmanager/pagerduty_routing_key"
        perms       = "0400"
        uid         = 65534
        gid         = 65534
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs/forebay-monitoring\" }}{{ with .pagerduty_routing_key }}{{ . }}{{ end }}{{ end }}"
      }

      template {
        destination = "secrets/alertmanager/slack_webhook_url"
        perms       = "0400"
        uid         = 65534
        gid         = 65534
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs/forebay-monitoring\" }}{{ with .slack_webhook_url }}{{ . }}{{ end }}{{ end }}"
      }

      template {
        destination = "secrets/alertmanager/smtp_password"
        perms       = "0400"
        uid         = 65534
        gid         = 65534
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs/forebay-monitoring\" }}{{ with .smtp_password }}{{ . }}{{ end }}{{ end }}"
      }

      template {
        destination = "secrets/alertmanager/deadman_url"
        perms       = "0400"
        uid         = 65534
        gid         = 65534
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs/forebay-monitoring\" }}{{ with .deadman_url }}{{ . }}{{ end }}{{ end }}"
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }

    task "grafana" {
      driver = "docker"
      user   = "472:0"

      artifact {
        source      = var.source
        destination = "local/forebay"
      }

      config {
        image           = "grafana/grafana:13.2.2"
        ports           = ["grafana"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        mount {
          type     = "bind"
          source   = "local/forebay/monitoring/grafana/provisioning"
          target   = "/etc/grafana/provisioning"
          readonly = true
        }
        mount {
          type     = "bind"
          source   = "local/forebay/monitoring/grafana/dashboards"
          target   = "/etc/grafana/dashboards"
          readonly = true
        }
        mount {
          type   = "tmpfs"
          target = "/tmp"
        }
      }

      volume_mount {
        volume      = "grafana"
        destination = "/var/lib/grafana"
      }

      env {
        PROMETHEUS_URL                   = "http://127.0.0.1:9090"
        GF_ANALYTICS_REPORTING_ENABLED   = "false"
        GF_ANALYTICS_CHECK_FOR_UPDATES   = "false"
        GF_PLUGINS_PREINSTALL_DISABLED   = "true"
        GF_SECURITY_ADMIN_PASSWORD__FILE = "/secrets/grafana_password"
      }

      template {
        destination = "secrets/grafana_password"
        perms       = "0400"
        uid         = 472
        gid         = 0
        data        = "{{ with nomadVar \"nomad/jobs/forebay-monitoring\" }}{{ .grafana_password }}{{ end }}"
      }

      resources {
        cpu    = 200
        memory = 512
      }
    }
  }
}
