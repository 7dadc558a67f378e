"""Which threads of which processes use the cores, from /proc/<pid>/task/*/stat."""

import os
import re
from collections import defaultdict
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def threads(pid):
    """(name, CPU seconds so far) of every thread of a process; none when it is gone."""
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            head, _, rest = task.read_text().rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        yield task.parent.name, head.partition("(")[2], (int(fields[11]) + int(fields[12])) / TICK


def snapshot(groups):
    """(group, pid, thread id) -> (name, CPU seconds) for groups of processes by name."""
    return {(group, pid, tid): (name, seconds) for group, pids in groups.items() for pid in pids for tid, name, seconds in threads(pid)}


def kind(name):
    """Threads of one kind have one name but for a number: tokenize-3 is tokenize."""
    return re.sub(r"[-_ #:]*\d+$", "", name) or name


def cores(before, after, seconds):
    """Cores in use between two snapshots: group -> total, and group -> thread kind -> cores, each largest first."""
    used = defaultdict(lambda: defaultdict(float))
    for key, (name, now) in after.items():
        used[key[0]][kind(name)] += (now - before.get(key, (name, 0.0))[1]) / seconds
    return {group: dict(sorted(kinds.items(), key=lambda pair: -pair[1])) for group, kinds in used.items()}
