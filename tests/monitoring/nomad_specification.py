"""What may stand where in a Nomad job file: block -> its attributes and the blocks in it.

As the job specification (developer.hashicorp.com/nomad/docs/job-specification) and the HCL tags of Nomad 2.0.6 have it, and those of
the Docker driver's `config` and of the autoscaler 0.5's policies and agent. Blocks that our files use or may come to use, each with
what it may hold, so that a misspelt or misplaced name is found. `...` stands for any attribute: maps that the user names.
"""


def block(attributes="", blocks=None, labels=0):
    return {"attributes": set(attributes.split()), "blocks": blocks or {}, "labels": labels}


FREE = block("...")
CONSTRAINT = block("attribute operator value")
AFFINITY = block("attribute operator value weight")
SPREAD = block("attribute weight", {"target": block("percent", labels=1)})
UPDATE = block("max_parallel health_check min_healthy_time healthy_deadline progress_deadline auto_revert auto_promote canary stagger")
RESTART = block("attempts delay interval mode render_templates")
RESCHEDULE = block("attempts interval delay delay_function max_delay unlimited")
MIGRATE = block("max_parallel health_check min_healthy_time healthy_deadline")
IDENTITY = block("name aud change_mode change_signal env file filepath service_name ttl", {"extra_claims": FREE})

CHECK = block(
    "address_mode args body command failures_before_critical failures_before_warning grpc_service grpc_use_tls initial_status interval "
    "method name notes on_update path expose port protocol success_before_passing task timeout tls_server_name tls_skip_verify type",
    {"check_restart": block("limit grace ignore_warnings"), "header": FREE},
)
SERVICE = block(
    "provider cluster name kind tags canary_tags enable_tag_override port address address_mode task on_update",
    {"check": CHECK, "identity": IDENTITY, "meta": FREE, "canary_meta": FREE, "tagged_addresses": FREE, "weights": block("passing warning")},
)
NETWORK = block(
    "mode hostname",
    {"port": block("static to host_network ignore_collision", labels=1), "dns": block("servers searches options"), "cni": block("", {"args": FREE})},
)
VOLUME = block(
    "type source read_only per_alloc sticky access_mode attachment_mode",
    {"mount_options": block("fs_type mount_flags")},
    labels=1,
)
SCHEDULE = block("start end duration")
POLICY = block(
    "cooldown cooldown_on_scale_up evaluation_interval on_check_error",
    {
        "check": block(
            "source query query_window query_window_offset group on_error",
            {"strategy": block("max_scale_up max_scale_down target threshold within_bounds_trigger delta percentage value", labels=1), "schedule": SCHEDULE},
            labels=1,
        ),
        "target": block("...", labels=1),
        "schedule": SCHEDULE,
    },
)
SCALING = block("min max enabled", {"policy": POLICY})
RESOURCES = block(
    "cpu cores memory memory_max disk secrets",
    {"device": block("count", {"constraint": CONSTRAINT, "affinity": AFFINITY}, labels=1), "numa": block("affinity devices")},
)
TEMPLATE = block(
    "change_mode change_signal data destination env error_on_missing_key left_delimiter right_delimiter once perms uid gid source splay",
    {"change_script": block("command args timeout fail_on_error run_on_first_render"), "wait": block("min max")},
)
DOCKER = block(
    "image advertise_ipv6_address args auth_soft_fail cap_add cap_drop cgroupns command container_exists_attempts cpu_cfs_period "
    "cpu_hard_limit cpuset_cpus dns_options dns_search_domains dns_servers entrypoint extra_hosts force_pull group_add hostname "
    "image_pull_timeout init interactive ipc_mode ipv4_address ipv6_address isolation load mac_address memory_hard_limit "
    "network_aliases network_mode oom_score_adj pid_mode pids_limit ports privileged readonly_rootfs runtime security_opt shm_size "
    "storage_opt sysctl tty ulimit userns_mode uts_mode volume_driver volumes work_dir",
    {
        "mount": block("type source target readonly", {"bind_options": block("propagation"), "tmpfs_options": block("mode size"), "volume_options": FREE}),
        "logging": block("type driver config"),
        "auth": block("username password server_address"),
        "devices": block("host_path container_path cgroup_permissions"),
        "healthchecks": block("disable"),
        "labels": FREE,
    },
)
TASK = block(
    "driver kill_signal kill_timeout kind leader shutdown_delay user",
    {
        "affinity": AFFINITY,
        "artifact": block("destination mode source chown", {"headers": FREE, "options": FREE}),
        "config": DOCKER,
        "constraint": CONSTRAINT,
        "env": FREE,
        "identity": IDENTITY,
        "lifecycle": block("hook sidecar"),
        "logs": block("max_files max_file_size disabled"),
        "meta": FREE,
        "resources": RESOURCES,
        "restart": RESTART,
        "service": SERVICE,
        "template": TEMPLATE,
        "volume_mount": block("volume destination read_only propagation_mode selinux_label"),
    },
    labels=1,
)
GROUP = block(
    "count shutdown_delay max_run_duration",
    {
        "affinity": AFFINITY,
        "constraint": CONSTRAINT,
        "disconnect": block("lost_after stop_on_client_after replace reconcile"),
        "ephemeral_disk": block("migrate size sticky"),
        "meta": FREE,
        "migrate": MIGRATE,
        "network": NETWORK,
        "reschedule": RESCHEDULE,
        "restart": RESTART,
        "scaling": SCALING,
        "service": SERVICE,
        "spread": SPREAD,
        "task": TASK,
        "update": UPDATE,
        "volume": VOLUME,
    },
    labels=1,
)
JOB = block(
    "all_at_once datacenters id name namespace node_pool priority region type",
    {
        "affinity": AFFINITY,
        "constraint": CONSTRAINT,
        "group": GROUP,
        "meta": FREE,
        "migrate": MIGRATE,
        "reschedule": RESCHEDULE,
        "spread": SPREAD,
        "ui": block("description", {"link": block("label url")}),
        "update": UPDATE,
    },
    labels=1,
)
VARIABLE = block("type default description", {"validation": block("condition error_message")}, labels=1)

JOB_FILE = block("", {"job": JOB, "variable": VARIABLE, "locals": FREE})
POLICY_FILE = block("", {"namespace": block("policy capabilities", {"variables": FREE}, labels=1)})
AUTOSCALER_FILE = block(
    "enable_debug log_include_location log_json log_level plugin_dir",
    {
        "apm": block("driver args config", labels=1),
        "http": block("bind_address bind_port"),
        "nomad": block("address region namespace token http_auth ca_cert ca_path client_cert client_key tls_server_name skip_verify block_query_wait_time"),
        "policy": block("dir default_cooldown default_evaluation_interval", {"source": block("enabled", labels=1)}),
        "strategy": block("driver args config", labels=1),
        "target": block("driver args config", labels=1),
        "telemetry": FREE,
    },
)


def entries(value, labels):
    """The bodies of blocks of one name, below their labels."""
    bodies = value if isinstance(value, list) else [value]
    for _ in range(labels):
        bodies = [body for outer in bodies for key, body in outer.items() if not key.startswith("__")]
    return bodies


def mistakes(body, allowed, where):
    """One line for each name that the specification does not have in this place."""
    found = []
    for key, value in body.items():
        if key.startswith("__"):
            continue
        if key in allowed["blocks"] and isinstance(value, list) and all(isinstance(part, dict) for part in value):
            inner = allowed["blocks"][key]
            for part in entries(value, inner["labels"]):
                if not isinstance(part, dict) or not part.get("__is_block__"):
                    found.append(f"{where}: {key} needs {inner['labels']} labels, and a body")
                    continue
                found += mistakes(part, inner, f"{where} > {key}")
        elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
            found.append(f"{where}: no block {key} here")
        elif key not in allowed["attributes"] and "..." not in allowed["attributes"]:
            found.append(f"{where}: no attribute {key} here")
    return found
