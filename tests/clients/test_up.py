"""`forebay up` itself: what it writes down, and that nothing of it is left."""

from conftest import MINILM, ForebayUp
from forebay_up import alive, get


def test_processes_json_names_every_process(system):
    roles = sorted(process["role"] for process in system.processes())
    assert roles == ["aggregator", "api", "nats-server", "worker", "worker"]
    assert all(alive(process["pid"]) for process in system.processes())
    broker = system.processes("nats-server")[0]
    assert get(f"http://{broker['monitor_addr']}/healthz")[0] == 200


def test_an_interrupt_ends_every_process_with_status_0():
    with ForebayUp(model=MINILM, workers=1) as system:
        pids = [process["pid"] for process in system.processes()]
        assert len(pids) == 4
        assert system.stop()
        assert not [pid for pid in pids if alive(pid)]
