"""Markdown out of what benches/gpu.py has found."""

import re


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def whole(found):
    """The page: where and how first, then a section for each part; a part that was not reached says so."""
    parts = [f"# {found['device']}, {found['date']}", "", *(f"- {key}: {value}" for key, value in found["where"].items())]
    if found["quick"]:
        parts += ["", "**Quick run: sizes too small and times too short to mean anything.**"]
    if (found.get("self_test") or {}).get("stand_in"):
        parts += ["", "**The device is a stand-in: its answers count, no figure here does.**"]
    parts += ["", "## Self-test", "", self_test(found.get("self_test"))]
    for title, key in [("Encoder with random weights", "random"), ("Encoder of the model", "model")]:
        parts += ["", f"## {title}", "", encoder(found.get(key), found.get("peer"), with_peer=key == "random")]
    parts += ["", "## Whole system", "", system(found.get("system"))]
    parts += ["", "## PyTorch on the same device", "", peer(found.get("peer"))]
    parts += ["", "## Commands", "", "```", *found["commands"], "```", ""]
    return "\n".join(parts)


def self_test(found):
    if found is None:
        return "not run"
    missed = [case for case in found["cases"] if case["verdict"] == "missed"]
    lines = [f"{found['device']}: passed {found['passed']} of {found['of']}."]
    worst = {}
    for case in found["cases"]:
        # A model's cases have its name in front; kernels are told apart by theirs up to the comma.
        name = re.split(r"[,:]", case["name"])[0]
        if case["worst_cosine"] is not None:
            key = (name, case["dtype"])
            cosine, difference = worst.get(key, (1.0, 0.0))
            worst[key] = (min(cosine, case["worst_cosine"]), max(difference, case["worst_difference"]))
    rows = [[name, dtype, f"{cosine:.7f}", f"{difference:.1e}"] for (name, dtype), (cosine, difference) in worst.items()]
    lines += ["", table(["cases", "dtype", "worst cosine", "worst difference"], rows)]
    if missed:
        lines += ["", "Missed: " + "; ".join(f"{case['name']} ({case['dtype']}) {case['detail']}".strip() for case in missed)]
    company = [f"{case['name'].partition(':')[0]} in {case['dtype']}: {case['detail']}" for case in found["cases"] if case["name"].endswith("rows in any company")]
    return "\n".join([*lines, "", "Rows in any company: " + "; ".join(company) + "."])


def encoder(found, peers, with_peer):
    if found is None:
        return "not run"
    of_peer = peers.get("encoder") if with_peer and isinstance(peers, dict) else None
    theirs = {(cell["rows"], cell["length"]): cell["tokens_per_second"] for cell in of_peer} if isinstance(of_peer, list) else {}
    rows = []
    for cell in found["cells"]:
        figures, shape = cell["figures"], (cell["rows"], cell["length"])
        if figures is None:
            rows.append([*shape, cell["error"], "", "", "", ""])
            continue
        versus = f"{figures['tokens_per_second'] / theirs[shape]:.2f}" if shape in theirs else "not run"
        speeds = [f"{figures['sentences_per_second']:,.0f}", f"{figures['tokens_per_second']:,.0f}", f"{figures['tflop_per_second']:.3g}"]
        rows.append([*shape, f"{figures['seconds'] * 1e3:.3f}", *speeds, versus])
    start, dtype = found["start"], found["dtype"]
    text = f"{found['model']} in {dtype}, up to {found['depth']} batches under way. Ready {start['ready_seconds']:.2f} s after the process began: device "
    text += f"{start['open_seconds']:.2f} s, model {start['load_seconds']:.2f} s, of which reading the file from the page cache takes {start['read_seconds']:.2f} s."
    head = ["rows", "tokens/row", "ms/batch", "sentences/s", "tokens/s", "TFLOP/s", "x PyTorch"]
    return f"{text}\n\n{table(head, rows)}\n\n{ops(found)}"


def ops(found):
    """Where the time of the largest batch goes."""
    done = [cell for cell in found["cells"] if cell["figures"]]
    if not done:
        return ""
    cell = max(done, key=lambda cell: cell["rows"] * cell["length"])
    all_seconds = sum(op["seconds"] for op in cell["figures"]["ops"]) or 1.0
    rows = []
    for op in cell["figures"]["ops"]:
        floor = "unknown" if op["floor_seconds"] is None else f"{op['floor_seconds'] * 1e3:.3f} ({op['floor_by']})"
        rows.append([op["op"], f"{op['seconds'] * 1e3:.3f}", f"{op['seconds'] / all_seconds:.1%}", floor])
    title = f"Operations of {cell['rows']} x {cell['length']} (summed over threads where several compute):"
    return f"{title}\n\n{table(['operation', 'ms', 'share', 'floor ms'], rows)}"


def system(found):
    if found is None:
        return "not run"
    load = found["load"]
    head = ["sentences/s", "p50 ms", "p99 ms", "requests", "errors", "device busy", "path share"]
    speeds = [f"{load['sentences_per_second']:,.0f}", f"{load['p50_ms']:.1f}", f"{load['p99_ms']:.1f}", load["requests"], load["errors"]]
    lines = [found["what"], "", table(head, [[*speeds, f"{found['device_busy']:.1%}", f"{1 - found['device_busy']:.1%}"]])]
    lines += ["", f"{load['checked']} answers decoded and held against the CPU in f32: worst cosine {load['worst_cosine']:.6f}."]
    if load["first_error"]:
        lines += [f"First error: {load['first_error']}"]
    rows = []
    for group, kinds in found["cores"].items():
        rows.append([group, f"{sum(kinds.values()):.2f}", ", ".join(f"{name} {used:.2f}" for name, used in kinds.items() if used >= 0.005)])
    return "\n".join([*lines, "", table(["process", "cores in use", "by thread"], rows)])


def peer(found):
    if found is None:
        return "not run"
    if "not_run" in found:
        return f"not run: {found['not_run']}"
    lines = [f"PyTorch {found['torch']} on {found['device']} in {found['dtype']}, SDPA, rows of one length, nothing padded; beside each figure above."]
    for title, part in [("Encoder", found["encoder"]), ("sentence-transformers, text to vectors in one process", found["end_to_end"])]:
        if isinstance(part, dict):
            lines.append(f"{title}: " + (f"not run: {part['not_run']}" if "not_run" in part else f"{part['sentences_per_second']:,.0f} sentences/s in batches of {part['batch']}."))
    return "\n\n".join(lines)
