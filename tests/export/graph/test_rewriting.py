"""The graph rewriter: who makes and reads a value stays true under every edit, and only it knows."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import untorch_export
from untorch_export.graph.rewriting import Graph, node, reads

EXPORT = Path(untorch_export.__file__).parent


def chain(length=3, *, extra=()):
    """x → Neg → Neg → … → y, with a weight and a Constant node beside it."""
    names = ["x", *(f"v{index}" for index in range(1, length)), "y"]
    nodes = [node("Neg", [a], b) for a, b in pairwise(names)]
    constant = helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2)))
    made = helper.make_graph(
        [constant, *nodes, *extra],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.float32([3]), "three")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model, x=(1.0, 2.0)):
    return ReferenceEvaluator(model).run(None, {"x": np.array(x, np.float32)})[0].tolist()


def assert_true(graph):
    """Producers and readers are what a walk over all nodes finds."""
    nodes = graph.nodes
    assert {id(item) for item in nodes} == {id(item) for item in nodes if item in graph}
    made = {name: item for item in nodes for name in item.output if name}
    read = {}
    for item in nodes:
        for name in filter(None, reads(item)):
            read.setdefault(name, {})[id(item)] = item
    for name in {*made, *read, "x", "nothing"}:
        assert graph.producer(name) is made.get(name)
        assert {id(item) for item in graph.readers(name)} == read.get(name, {}).keys()


def test_the_old_model_stays_as_it_is():
    model = chain()
    before = model.SerializeToString(deterministic=True)
    graph = Graph(model)
    graph.replace(graph.producer("v2"), [node("Abs", ["v1"], "v2")])
    graph.set_constant("two", np.float32(5))
    graph.set_constant("three", np.float32([5]))
    graph.inputs[0].name = "other"
    assert model.SerializeToString(deterministic=True) == before


def test_what_is_inserted_stands_where_it_was_put():
    graph = Graph(chain())
    middle = graph.producer("v2")
    graph.insert_before(middle, node("Abs", ["v1"], "a"), node("Abs", ["a"], "b"))
    graph.insert_after(middle, node("Abs", ["v2"], "c"))
    graph.insert_after(middle, node("Abs", ["v2"], "d"))
    graph.prepend(node("Abs", ["x"], "first"))
    graph.append(node("Abs", ["y"], "last"))
    assert [item.output[0] for item in graph.nodes] == ["first", "two", "v1", "a", "b", "v2", "d", "c", "y", "last"]
    assert_true(graph)


def test_a_replaced_node_is_gone_and_its_place_is_kept():
    graph = Graph(chain())
    old = graph.producer("v2")
    graph.replace(old, [node("Mul", ["v1", "two"], "scaled"), node("Add", ["scaled", "three"], "v2")])
    assert old not in graph
    assert [item.op_type for item in graph.readers("v1")] == ["Mul"]
    assert_true(graph)
    assert run(graph.finish()) == [-1.0, 1.0]  # -(2 * -1 + 3)


def test_what_nobody_needs_is_dropped_with_its_weights():
    graph = Graph(chain(extra=[node("Mul", ["v1", "three"], "unused"), node("Neg", ["unused"], "unused_too")]))
    graph.drop_unused()
    assert [item.output[0] for item in graph.nodes] == ["v1", "v2", "y"]
    assert_true(graph)
    assert not graph.finish().graph.initializer


def test_constants_are_weights_and_what_constant_nodes_give():
    graph = Graph(chain())
    assert [graph.is_constant(name) for name in ("two", "three", "v1", "x", "nothing")] == [True, True, False] + [
        False
    ] * 2
    assert (graph.scalar("two"), graph.scalar("three"), graph.scalar("x")) == (2.0, 3.0, None)
    assert (graph.shape("two"), graph.shape("three")) == ((), (1,))
    with pytest.raises(KeyError):
        graph.constant("v1")


def test_chains_are_found_up_and_down():
    graph = Graph(chain(extra=[node("Abs", ["v1"], "beside")]))
    assert [item.output[0] for item in graph.upstream("y", "Neg", "Neg")] == ["y", "v2"]
    assert graph.upstream("y", "Neg", "Abs") == []
    assert graph.upstream("x", "Neg") == []
    assert [item.output[0] for item in graph.downstream("v2", "Neg")] == ["y"]
    assert graph.downstream("v1", "Neg") == []  # it has another reader
    assert graph.downstream("y", "Neg") == []  # the graph gives it out


def branching():
    """y = x + 1 if flag else x + x, where the branches read x from outside."""
    branches = {
        name: helper.make_graph(
            [node("Add", ["x", other], f"{name}_sum")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_sum", TensorProto.FLOAT, ["n"])],
        )
        for name, other in (("then_branch", "one"), ("else_branch", "x"))
    }
    made = helper.make_graph(
        [node("If", ["flag"], "y", **branches)],
        "branching",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.float32([1]), "one")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_what_a_branch_reads_its_node_reads():
    graph = Graph(branching())
    assert graph.only_reader("one").op_type == "If"
    graph.prepend(node("Neg", ["x"], "negated"))
    choice = graph.producer("y")
    graph.redirect("x", "negated")
    # All readers, the new node among them, read the other value now; it gets its own back.
    graph.set_inputs(graph.producer("negated"), ["x"])
    assert [item is choice for item in graph.readers("negated")] == [True]
    assert_true(graph)
    model = graph.finish()
    assert [tensor.name for tensor in model.graph.initializer] == ["one"]
    given = [{"x": np.float32([1, 2]), "flag": np.array(flag)} for flag in (True, False)]
    assert [ReferenceEvaluator(model).run(None, one)[0].tolist() for one in given] == [[0.0, -1.0], [-2.0, -4.0]]


def test_a_circle_is_not_sorted():
    graph = Graph(chain())
    graph.set_inputs(graph.producer("v1"), ["v2"])
    with pytest.raises(ValueError, match="circle"):
        graph.sort()


def test_a_malformed_graph_is_not_finished():
    graph = Graph(chain())
    graph.remove(graph.producer("v2"))
    with pytest.raises(onnx.checker.ValidationError):
        graph.finish()


@settings(deadline=None)
@given(st.permutations(range(8)))
def test_any_order_is_sorted(order):
    model = chain(8)
    nodes = [model.graph.node[1 + index] for index in order]
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    graph = Graph(shuffled)
    graph.sort()
    assert run(graph.finish()) == [1.0, 2.0]
    sorted_already = [id(item) for item in graph.nodes]
    graph.sort()
    assert [id(item) for item in graph.nodes] == sorted_already
    assert_true(graph)


EDITS = ("replace", "remove", "before", "after", "append", "prepend", "inputs", "outputs", "redirect", "unused")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 99), st.integers(0, 99)), max_size=12))
def test_makers_and_readers_stay_true_under_any_edits(edits):
    graph = Graph(chain(4))
    for count, (edit, first, second) in enumerate(edits):
        nodes = [item for item in graph.nodes if item.op_type != "Constant"]
        if not nodes:
            break
        item, other = nodes[first % len(nodes)], nodes[second % len(nodes)]
        new = node("Add", [other.output[0], "three"], f"new{count}")
        if edit == "replace":
            graph.replace(item, [node("Abs", [item.input[0]], item.output[0])])
        elif edit == "remove":
            graph.remove(item)
        elif edit in ("before", "after"):
            getattr(graph, f"insert_{edit}")(item, new)
        elif edit in ("append", "prepend"):
            getattr(graph, edit)(new)
        elif edit == "inputs":
            graph.set_inputs(item, [other.output[0], "", other.output[0]])
        elif edit == "outputs":
            graph.set_outputs(item, [f"renamed{count}"])
        elif edit == "redirect":
            graph.redirect(item.output[0], other.output[0])
        else:
            graph.drop_unused()
        assert_true(graph)


def test_an_edit_does_not_walk_over_the_graph(monkeypatch):
    """Big models have thousands of nodes: what an edit looks at may not grow with the graph."""
    looked_at = []
    for length in (100, 1000):
        graph = Graph(chain(length))
        count = 0

        def counting(item):
            nonlocal count
            count += 1
            return reads(item)

        monkeypatch.setattr("untorch_export.graph.rewriting.reads", counting)
        for index in range(1, 50):
            item = graph.producer(f"v{index}")
            graph.insert_before(item, node("Abs", [item.input[0]], f"a{index}"))
            graph.replace(item, [node("Neg", [f"a{index}"], f"v{index}")])
            graph.redirect(f"v{index}", f"v{index}")
        monkeypatch.undo()
        looked_at.append(count)
    assert looked_at[0] == looked_at[1]


@pytest.mark.parametrize("path", sorted(EXPORT.rglob("*.py")), ids=lambda path: path.relative_to(EXPORT).as_posix())
def test_only_the_rewriter_knows_who_makes_and_reads_a_value(path):
    """No other file rebuilds a graph's list of nodes, or makes maps from names to nodes."""
    if path.name == "rewriting.py":
        return
    for found in ast.walk(ast.parse(path.read_text())):
        text = ast.unparse(found)
        if isinstance(found, ast.Delete):
            assert "graph.node" not in text, text
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Attribute):
            assert not (
                found.func.attr in ("extend", "append", "insert") and "graph.node" in ast.unparse(found.func)
            ), text
        if isinstance(found, ast.DictComp):
            walked = [ast.unparse(generator.iter) for generator in found.generators]
            assert not any(part.endswith((".input", ".output")) and "graph" not in part for part in walked), text
        if isinstance(found, ast.Name | ast.Attribute):
            assert text.rpartition(".")[2] not in ("_producers", "_readers", "producers_of", "readers_of"), text
