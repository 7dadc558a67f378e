"""mosec, the fastest plain batching server found, as a peer: its echo, or MiniLM on onnxruntime.

    PEER=echo python mosec_peer.py --address 127.0.0.1 --port 9100
    PEER=f32 MODEL_DIR=… ONNX_DIR=… THREADS=2 python mosec_peer.py --address 127.0.0.1 --port 9100

POST /inference {"input": "text"} -> {"embedding": [...]}; the echo answers {"y": 1}. ONNX files: minilm_onnx.py.
"""

import json
import os

from mosec import Server, Worker

PEER, THREADS = os.environ.get("PEER", "echo"), int(os.environ.get("THREADS", "2"))
ECHO = PEER == "echo"


class Echo(Worker):
    def forward(self, data):
        return [{"y": 1} for _ in data]


class Embed(Worker):
    def __init__(self):
        import numpy
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.numpy = numpy
        self.model = onnxruntime.InferenceSession(f"{os.environ['ONNX_DIR']}/{PEER}.onnx", options, providers=["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(f"{os.environ['MODEL_DIR']}/tokenizer.json")
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")  # to the longest of the batch, not to the file's fixed 128

    def serialize(self, data):
        return json.dumps(data, separators=(",", ":")).encode()

    def forward(self, data):
        encoded = self.tokenizer.encode_batch([row["input"] for row in data])
        ids, mask = (self.numpy.array([getattr(row, key) for row in encoded], dtype="i8") for key in ("ids", "attention_mask"))
        vectors = self.model.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return [{"embedding": vector} for vector in vectors.tolist()]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Echo if ECHO else Embed, num=1, max_batch_size=64, max_wait_time=1 if ECHO else 2)
    server.run()
