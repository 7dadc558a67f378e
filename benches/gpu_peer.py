#!/usr/bin/env python3
"""The same on PyTorch: the encoder alone with SDPA on the shapes that were measured here, and sentence-transformers from text to vectors.

Prints one JSON object. What is not installed is told as {"not_run": reason} and is no error.
"""

import argparse
import json
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="bf16", choices=["f32", "f16", "bf16"])
    parser.add_argument("--random", type=Path, required=True, help="folder of the model with random weights")
    parser.add_argument("--model", type=Path, required=True, help="folder of a sentence-transformers model")
    parser.add_argument("--sentences", type=Path, required=True, help="file with a sentence per line")
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--lengths", type=int, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, default=0.7)
    options = parser.parse_args()
    try:
        import torch
    except ImportError as reason:
        print(json.dumps({"not_run": f"PyTorch: {reason}"}))
        return
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(json.dumps({"not_run": f"PyTorch {torch.__version__} sees no GPU"}))
        return
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[options.dtype]
    where = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "cpu"
    found = {"torch": torch.__version__, "device": where, "dtype": options.dtype, "threads": torch.get_num_threads()}
    found["encoder"] = attempt(lambda: encoder(torch, options, dtype))
    found["end_to_end"] = attempt(lambda: end_to_end(torch, options, dtype))
    print(json.dumps(found))


def attempt(work):
    try:
        return work()
    except Exception as reason:  # noqa: BLE001 - whatever a peer's installation lacks is its own line of the table
        return {"not_run": f"{type(reason).__name__}: {reason}"[:300]}


def waiter(torch, device):
    """What waits until the device has done all that it was given."""
    return (lambda: torch.cuda.synchronize(device)) if device.startswith("cuda") else (lambda: None)


def encoder(torch, options, dtype):
    from transformers import BertModel

    kind = {"torch_dtype": dtype, "attn_implementation": "sdpa", "add_pooling_layer": False}
    # Moved to the type once more: versions that do not know the argument load what the file holds, and say nothing.
    model = BertModel.from_pretrained(options.random, **kind).to(options.device, dtype).eval()
    wait, cells = waiter(torch, options.device), []
    with torch.inference_mode():
        for length in options.lengths:
            for rows in options.rows:
                # Rows of one length need no mask: nothing is padded, as nothing is here.
                ids = torch.randint(0, model.config.vocab_size, (rows, length), device=options.device)
                seconds = per_pass(lambda ids=ids: model(input_ids=ids).last_hidden_state.float().mean(1), wait, options.seconds)
                cells.append({"rows": rows, "length": length, "seconds": seconds, "tokens_per_second": rows * length / seconds})
    return cells


def per_pass(work, wait, least):
    """Seconds per pass with passes queued behind each other, after some to warm up."""
    for _ in range(3):
        work()
    wait()
    passes, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < least or passes < 3:
        for _ in range(5):
            work()
        wait()
        passes += 5
    return (time.perf_counter() - begun) / passes


def end_to_end(torch, options, dtype):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(options.model), device=options.device).to(dtype)
    sentences = options.sentences.read_text().splitlines()
    best, wait = {}, waiter(torch, options.device)
    for batch in (32, 256, 1024):
        encode = lambda batch=batch: model.encode(sentences, batch_size=batch, convert_to_numpy=True, show_progress_bar=False)  # noqa: E731
        seconds = per_pass(encode, wait, options.seconds)
        rate = len(sentences) / seconds
        if rate > best.get("sentences_per_second", 0):
            best = {"batch": batch, "sentences_per_second": rate}
    return best


if __name__ == "__main__":
    main()
