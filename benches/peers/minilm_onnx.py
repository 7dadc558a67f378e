"""Writes the ONNX graph of a BERT sentence encoder (mean pooling, L2 norm) straight from its safetensors, without PyTorch.

    python minilm_onnx.py MODEL_DIR OUT_DIR      -> OUT_DIR/f32.onnx

Inputs: input_ids [batch, seq] int64, attention_mask [batch, seq] int64. Output: embedding [batch, hidden] float32.
"""

import json
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file


class Graph:
    """Nodes and constants, in the order in which they are needed."""

    def __init__(self, weights):
        self.nodes, self.constants = [], []
        self.weights = {name.removeprefix("bert."): value for name, value in weights.items()}

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def linear(self, x, name):
        product = self.op("MatMul", x, self.constant(self.weights[f"{name}.weight"].T))
        return self.op("Add", product, self.constant(self.weights[f"{name}.bias"]))

    def norm(self, x, name, epsilon):
        scale, bias = (self.constant(self.weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def embeddings(g, config):
    length = g.op("Slice", g.op("Shape", "input_ids"), g.constant(np.array([1])), g.constant(np.array([2])))
    positions = g.op("Slice", g.constant(g.weights["embeddings.position_embeddings.weight"]), g.constant(np.array([0])), length)
    words = g.op("Gather", g.constant(g.weights["embeddings.word_embeddings.weight"]), "input_ids")
    places = g.op("Add", positions, g.constant(g.weights["embeddings.token_type_embeddings.weight"][0]))
    return g.norm(g.op("Add", words, places), "embeddings.LayerNorm", config["layer_norm_eps"])


def layer(g, x, bias, config, prefix):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    split, joined = g.constant(np.array([0, 0, heads, hidden // heads])), g.constant(np.array([0, 0, hidden]))
    q, k, v = (g.op("Reshape", g.linear(x, f"{prefix}.attention.self.{part}"), split) for part in ("query", "key", "value"))
    q, k, v = g.op("Transpose", q, perm=[0, 2, 1, 3]), g.op("Transpose", k, perm=[0, 2, 3, 1]), g.op("Transpose", v, perm=[0, 2, 1, 3])
    scores = g.op("Mul", g.op("MatMul", q, k), g.constant(np.float32((hidden // heads) ** -0.5)))
    mixed = g.op("MatMul", g.op("Softmax", g.op("Add", scores, bias), axis=-1), v)
    attended = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
    x = g.norm(g.op("Add", g.linear(attended, f"{prefix}.attention.output.dense"), x), f"{prefix}.attention.output.LayerNorm", config["layer_norm_eps"])
    inner = g.op("Gelu", g.linear(x, f"{prefix}.intermediate.dense"))
    return g.norm(g.op("Add", g.linear(inner, f"{prefix}.output.dense"), x), f"{prefix}.output.LayerNorm", config["layer_norm_eps"])


def pooled(g, x, mask):
    weight = g.op("Unsqueeze", mask, g.constant(np.array([2])))
    total = g.op("ReduceSum", g.op("Mul", x, weight), g.constant(np.array([1])), keepdims=0)
    mean = g.op("Div", total, g.op("ReduceSum", weight, g.constant(np.array([1])), keepdims=0))
    length = g.op("ReduceL2", mean, g.constant(np.array([1])), keepdims=1)
    g.nodes.append(helper.make_node("Div", [mean, length], ["embedding"]))


def main(model, out):
    with open(f"{model}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    g = Graph(load_file(f"{model}/model.safetensors"))
    mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    hole = g.op("Sub", g.constant(np.float32(1)), g.op("Unsqueeze", mask, g.constant(np.array([1, 2]))))
    bias = g.op("Mul", hole, g.constant(np.float32(-1e9)))
    x = embeddings(g, config)
    for number in range(config["num_hidden_layers"]):
        x = layer(g, x, bias, config, f"encoder.layer.{number}")
    pooled(g, x, mask)
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["b", config["hidden_size"]])]
    graph = helper.make_graph(g.nodes, "encoder", inputs, outputs, g.constants)
    os.makedirs(out, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), f"{out}/f32.onnx.part")
    os.replace(f"{out}/f32.onnx.part", f"{out}/f32.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:3])
