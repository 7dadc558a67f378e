#!/bin/sh
# Puts keys into Nomad's variables, each where only its own job can read it.
#
#   forebay keys keys                                             a key per role, accounts.conf, the key of the store
#   deploy/nomad/put-variables.sh keys api-keys.json
#
# A second run replaces them; jobs take new keys by restarting. NOMAD_ADDR and NOMAD_TOKEN say to which cluster.
set -eu
keys=${1:?usage: put-variables.sh FOLDER-OF-KEYS FILE-OF-API-KEYS}
api_keys=${2:?usage: put-variables.sh FOLDER-OF-KEYS FILE-OF-API-KEYS}

put() { nomad var put -force -out none "nomad/jobs/$@" > /dev/null; }

put forebay-nats accounts_conf=@"$keys/accounts.conf" store_key=@"$keys/store.key"
put forebay-api api_nk=@"$keys/api.nk" api_keys=@"$api_keys"
put forebay-worker worker_nk=@"$keys/worker.nk"
put forebay-worker-gpu worker_nk=@"$keys/worker.nk"
put forebay-aggregator aggregator_nk=@"$keys/aggregator.nk" system_nk=@"$keys/system.nk" reaper_nk=@"$keys/reaper.nk"

# What alerts are sent with, and Grafana's password, by hand:
#   nomad var put nomad/jobs/forebay-monitoring grafana_password=… pagerduty_routing_key=… slack_webhook_url=… smtp_password=… deadman_url=…
