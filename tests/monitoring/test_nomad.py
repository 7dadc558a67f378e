"""The job files of deploy/nomad: parsed as HCL, each name in its place, and what they say held against what the roles need.

Nomad is not at hand: no file was ever given to a server. The templates are filled in here in place of it, as far as we use its language,
and what comes out is given to the real nats-server and promtool.
"""

import os
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import hcl2
import pytest
import yaml
from nomad_specification import AUTOSCALER_FILE, JOB_FILE, POLICY_FILE, entries, mistakes

ROOT = Path(__file__).resolve().parents[2]
NOMAD = ROOT / "deploy/nomad"
JOBS = sorted(NOMAD.glob("*.nomad.hcl"))
WORKERS = ["worker", "worker-gpu"]


def parsed(path):
    return hcl2.loads(path.read_text(encoding="utf-8"))


def text_of(value):
    """A string as written, without its quotes and escapes."""
    if not isinstance(value, str):
        return value
    if heredoc := re.fullmatch(r'"?<<-?(\w+)\n(.*?)\n?\s*\1"?', value, re.S):
        lines = heredoc[2].splitlines()
        indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
        return "\n".join(line[indent:] for line in lines) + "\n"
    return value.removeprefix('"').removesuffix('"').replace('\\"', '"')


def job(name):
    (body,) = entries(parsed(NOMAD / f"{name}.nomad.hcl")["job"], 1)
    return body


def defaults(name):
    """Variable -> its default, as text."""
    return {text_of(key): text_of(body.get("default")) for entry in parsed(NOMAD / f"{name}.nomad.hcl").get("variable", []) for key, body in entry.items()}


def group(name):
    (body,) = entries(job(name)["group"], 1)
    return body


def tasks(name):
    """Name -> body of each task."""
    return {text_of(key): body for entry in group(name)["task"] for key, body in entry.items()}


def blocks(body, name):
    return body.get(name, [])


def names_of_jobs():
    return [path.name.removesuffix(".nomad.hcl") for path in JOBS]


def test_all_jobs_are_there():
    assert set(names_of_jobs()) == {"nats", "api", "worker", "worker-gpu", "aggregator", "monitoring", "autoscaler"}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_block_and_attribute_is_in_the_job_specification(path):
    assert mistakes(parsed(path), JOB_FILE, path.name) == []


def test_the_policy_and_the_agents_configuration_are_specified():
    assert mistakes(parsed(NOMAD / "autoscaler-policy.hcl"), POLICY_FILE, "policy") == []
    (template,) = blocks(tasks("autoscaler")["autoscaler"], "template")
    agent = hcl2.loads(filled(text_of(template["data"]), {"forebay-prometheus": ["10.0.0.9:9090"]}, {}))
    assert mistakes(agent, AUTOSCALER_FILE, "agent") == []
    (apm,) = entries(agent["apm"], 1)
    assert text_of(apm["config"]["address"]) == "http://10.0.0.9:9090"


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ('job "x" { group "g" { task "t" { kil_timeout = "5s" } } }', "no attribute kil_timeout"),
        ('job "x" { group "g" { kill_timeout = "5s" } }', "no attribute kill_timeout"),
        ('job "x" { group "g" { task "t" { scalling { min = 1 } } } }', "no block scalling"),
        ('job "x" { group "g" { scaling { policy { check "c" { strategi "s" {} } } } } }', "no block strategi"),
        ('job "x" { group { count = 1 } }', "group needs 1 labels"),
    ],
)
def test_a_wrong_name_is_found(wrong, line):
    assert any(line in mistake for mistake in mistakes(hcl2.loads(wrong), JOB_FILE, "x")), mistakes(hcl2.loads(wrong), JOB_FILE, "x")


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)([sm])", text_of(text)).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


@pytest.mark.parametrize("name", names_of_jobs())
def test_tasks_are_locked_down_and_pinned(name):
    for label, task in tasks(name).items():
        (config,) = task["config"]
        assert config["readonly_rootfs"] in (True, "true"), label
        assert [text_of(value) for value in config["cap_drop"]] == ["all"], label
        assert [text_of(value) for value in config["security_opt"]] == ["no-new-privileges"], label
        image = text_of(config["image"])
        image = defaults(name)["image"] if image == "${var.image}" else image
        assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", image), image
        if image.split(":")[0] != "hashicorp/nomad-autoscaler":  # whose image is of a user of its own
            assert re.fullmatch(r"[1-9]\d*:\d+", text_of(task["user"])), label
        assert "resources" in task, label


@pytest.mark.parametrize("name", [name for name in names_of_jobs() if name != "nats"])
def test_services_are_healthy_when_they_say_so(name):
    for service in group(name)["service"]:
        assert text_of(service["provider"]) == "nomad"
        (check,) = service["check"]
        path = text_of(check["path"])
        assert path == "/health/ready" if name in ("api", "worker", "worker-gpu", "aggregator") else path.startswith("/")


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_drains_before_it_is_killed(name):
    task = tasks(name)["worker"]
    (environment,) = task["env"]
    assert text_of(task["kill_signal"]) == "SIGTERM"
    assert seconds(task["kill_timeout"]) >= seconds(environment["FOREBAY_DRAIN_TIMEOUT"]) + 10
    (update,) = job(name)["update"]
    assert update["canary"] == "${var.canary}" and update["auto_revert"] in (True, "true")
    # A canary has the index of the one that it replaces: no name for a process.
    assert "NOMAD_ALLOC_INDEX" not in text_of(environment["FOREBAY_PROCESS_NAME"])


def test_an_api_finishes_its_requests():
    task = tasks("api")["api"]
    assert seconds(task["kill_timeout"]) >= 30 + 10 and seconds(task["shutdown_delay"]) >= 5
    assert job("api")["update"][0]["canary"] == 1


@pytest.mark.parametrize("name", WORKERS)
def test_the_autoscaler_follows_the_desired_number_down_to_none(name):
    (scaling,) = group(name)["scaling"]
    assert scaling["min"] == 0 and scaling["max"] == "${var.max_workers}"
    (check,) = entries(scaling["policy"][0]["check"], 1)
    assert text_of(check["query"]) == 'max(max without (instance, job) (forebay_desired_workers{model="${var.served_name}"}))'
    assert text_of(check["source"]) == "prometheus"
    assert [text_of(key) for entry in check["strategy"] for key in entry] == ["pass-through"]


def test_a_gpu_worker_has_one_device():
    (device,) = tasks("worker-gpu")["worker"]["resources"][0]["device"]
    assert device['"nvidia/gpu"']["count"] == 1
    assert defaults("worker-gpu")["image"].endswith("-cuda")


def test_settings_are_settings_of_forebay():
    parts = dict(re.findall(r"^## `forebay (\w+)`\n(.*?)(?=^## |\Z)", (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8"), re.S | re.M))
    for name in ("api", "worker", "worker-gpu", "aggregator"):
        for task in tasks(name).values():
            (config,) = task["config"]
            (environment,) = task["env"]
            known = parts[text_of(config["args"][0])]
            templates = " ".join(text_of(template["data"]) for template in task["template"] if template.get("env"))
            names = {key for key in environment if not key.startswith("__")} | set(re.findall(r"(FOREBAY_\w+)=", templates))
            assert "FOREBAY_BROKER" in names
            for variable in names:
                assert not variable.startswith("FOREBAY_") or f"`{variable}`" in known, f"{name}: {variable}"


def test_each_job_reads_its_own_variables_and_the_script_puts_them():
    script = (NOMAD / "put-variables.sh").read_text(encoding="utf-8")
    put = {match[1]: set(re.findall(r"(\w+)=@?", match[2])) for match in re.finditer(r"^put (\S+) (.*)$", script, re.M)}
    by_hand = re.search(r"nomad var put nomad/jobs/(\S+) (.*)", script)
    put[by_hand[1]] = set(re.findall(r"(\w+)=", by_hand[2]))
    read = {}
    for name in names_of_jobs():
        (label,) = [text_of(key) for entry in parsed(NOMAD / f"{name}.nomad.hcl")["job"] for key in entry]
        for task in tasks(name).values():
            for template in blocks(task, "template"):
                data = text_of(template["data"])
                for path, rest in re.findall(r'nomadVar "nomad/jobs/([\w-]+)" \}\}(.*)', data):
                    assert path == label, f"{name} cannot read the variables of {path}"
                    read.setdefault(path, set()).update(re.findall(r"\{\{ (?:with )?\.(\w+) \}\}", rest))
    assert read == put
    syntax = subprocess.run(["sh", "-n", NOMAD / "put-variables.sh"], capture_output=True, text=True)
    assert syntax.returncode == 0, syntax.stderr


def test_secrets_are_for_the_one_who_needs_them():
    for name in names_of_jobs():
        for label, task in tasks(name).items():
            for template in blocks(task, "template"):
                if "nomadVar" not in text_of(template["data"]):
                    continue
                assert text_of(template["destination"]).startswith("secrets/"), label
                if not template.get("env"):
                    assert text_of(template["perms"]) == "0400", label
                    assert str(template["uid"]) == text_of(task["user"]).split(":")[0], label


def filled(text, services, environment):
    """What Nomad would write for a template: the few forms that our files use, and nothing else."""

    def each(match):
        trim, call, body = match[1], match[2], match[3]
        name = re.fullmatch(r'(?:\$index, \$\w+ := )?nomadService (?:1 \(env "\w+"\) )?"([\w-]+)"', call)[1]
        parts = []
        for number, address in enumerate(services.get(name, [])):
            host, port = address.split(":")
            part = re.sub(r"\{\{ if \$index \}\}(.*?)\{\{ end \}\}", r"\1" if number else "", body)
            part = re.sub(r"\{\{-? ?if ne \.Address \(env \"(\w+)\"\) \}\}(.*?)\{\{- end \}\}", lambda test: test[2].rstrip() if environment[test[1]] != host else "", part, flags=re.S)
            part = re.sub(r"\{\{ (?:\$\w+)?\.Address \}\}", host, part)
            part = re.sub(r"\{\{ (?:\$\w+)?\.Port \}\}", port, part)
            parts.append(part.rstrip() if trim == "-" else part)
        return "".join(parts)

    text = re.sub(r'\s*\{\{- if eq \(env "(\w+)"\) "(\w+)" \}\}(.*?)\s*\{\{- end \}\}', lambda test: test[3] if environment.get(test[1]) == test[2] else "", text, flags=re.S)
    text = re.sub(r"\s*\{\{(-) range (nomadService [^}]*?) \}\}((?:(?!\{\{-? ?range).)*?)\s*\{\{- end \}\}(?=\n(?!\s*\{\{- end))", each, text, flags=re.S)
    text = re.sub(r"\{\{()\s*range ([^}]*?) \}\}((?:(?!\{\{ range)(?:\{\{ if \$index \}\}.*?\{\{ end \}\}|.))*?)\{\{ end \}\}", each, text)
    text = re.sub(r'\{\{ env "([\w.]+)" \}\}', lambda name: environment[name[1]], text)
    assert "{{" not in text, text
    return text


def test_every_role_finds_every_broker():
    for name in ("api", "worker", "worker-gpu", "aggregator"):
        for task in tasks(name).values():
            data = next(text_of(template["data"]) for template in task["template"] if "nomadService" in text_of(template["data"]))
            assert filled(data, {"forebay-nats": ["10.0.0.1:4222", "10.0.0.2:4222"]}, {}) == "FOREBAY_BROKER=nats://10.0.0.1:4222,nats://10.0.0.2:4222"


def test_nats_server_takes_its_configuration(tmp_path):
    server = ROOT / ".cache/bin/nats-server"
    if not server.exists():
        pytest.skip("nats-server is not in .cache/bin")
    data = next(text_of(template["data"]) for template in tasks("nats")["nats"]["template"] if text_of(template["destination"]) == "secrets/nats.conf")
    environment = {"node.unique.name": "n1", "NOMAD_ADDR_client": "10.0.0.1:4222", "NOMAD_ADDR_cluster": "10.0.0.1:6222", "NOMAD_IP_cluster": "10.0.0.1"}
    text = filled(data, {"forebay-nats-cluster": ["10.0.0.1:6222", "10.0.0.2:6222", "10.0.0.3:6222"]}, environment)
    assert re.findall(r'"nats://([\d.]+):6222"', text) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    (tmp_path / "nats.conf").write_text(text.replace('"/data"', f'"{tmp_path}/data"'))
    (tmp_path / "accounts.conf").write_text("accounts { FOREBAY { jetstream: enabled, users: [ { user: a, password: b } ] } }\n")
    done = subprocess.run([server, "-t", "-c", tmp_path / "nats.conf"], capture_output=True, text=True, env={**os.environ, "FOREBAY_STORE_KEY": "k" + "0" * 64}, timeout=30)
    assert done.returncode == 0 and "is valid" in done.stderr + done.stdout, done.stderr


def prometheus_configuration(compat):
    data = next(text_of(template["data"]) for template in tasks("monitoring")["prometheus"]["template"])
    services = {"forebay-aggregator": ["10.0.0.1:20001", "10.0.0.2:20002"], "forebay-nats-metrics": ["10.0.0.1:7777"]}
    return filled(data, services, {"COMPAT_RULES": compat})


def test_prometheus_asks_each_aggregator_and_whom_they_know(tmp_path):
    config = yaml.safe_load(prometheus_configuration("false"))
    jobs = {entry["job_name"]: entry for entry in config["scrape_configs"]}
    assert set(jobs) == {"forebay-aggregator", "forebay", "nats", "node", "cadvisor", "dcgm", "prometheus", "alertmanager", "grafana"}
    assert jobs["forebay-aggregator"]["static_configs"] == [{"targets": ["10.0.0.1:20001", "10.0.0.2:20002"]}]
    assert [entry["url"] for entry in jobs["forebay"]["http_sd_configs"]] == ["http://10.0.0.1:20001/sd", "http://10.0.0.2:20002/sd"]
    assert jobs["dcgm"]["static_configs"] == [{"targets": []}]
    promtool = ROOT / ".cache/bin/promtool"
    if promtool.exists():
        (tmp_path / "prometheus.yml").write_text(yaml.dump(config))
        done = subprocess.run([promtool, "check", "config", "--syntax-only", tmp_path / "prometheus.yml"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_rules_of_other_stacks_only_where_they_are_wanted():
    def read(compat, name):
        patterns = [Path(pattern).name.replace("[^", "[!") for pattern in yaml.safe_load(prometheus_configuration(compat))["rule_files"]]
        return any(fnmatch(name, pattern) for pattern in patterns)

    files = {path.name for path in (ROOT / "monitoring/prometheus/rules").glob("*.yml")} | {"alerts.yml", "recording.yml", "compat-3.yml"}
    for name in files:
        assert read("false", name) == (not name.startswith("compat-")), name
        assert read("true", name), name
