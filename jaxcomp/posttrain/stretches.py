"""Stretches: the nodes of a frame between those at which a walk stops, merged so that each is compiled whole."""

from collections.abc import Callable

from jaxcomp.trace.ir import Frame, Node, Value

STRETCH = "stretch"
"""The primitive that merged nodes are."""


def merged(frame: Frame, data: set[Value], stops: Callable[[Node], bool], opens: Callable[[Node], bool]) -> Frame:
    """Merges the nodes of a frame that depend on data, and at which there is nothing to do.

    Args:
      frame: a body.
      data: its values that depend on data; more are added.
      stops: whether there is something to do at a node.
      opens: whether that is to be done before it alone, so that what follows it is merged with it.
    """
    first: list[Node] = []  # what depends on parameters alone is computed where it is read
    groups: list[list[Node]] = [[]]
    alone: set[Node] = set()
    for node in frame.nodes:
        if data.isdisjoint(node.ins):
            first.append(node)
            continue
        data.update(node.outs)
        if not stops(node):
            groups[-1].append(node)
        elif opens(node):
            groups.append([node])
        else:
            alone.add(node)
            groups += [[node], []]
    nodes = [own[0] if own[0] in alone else _stretch(frame, own) for own in groups if own]
    return Frame(frame.ins, first + nodes, frame.outs)


def _stretch(frame: Frame, own: list[Node]) -> Node:
    """Some nodes of a frame, one after another, as one."""
    made = dict.fromkeys(value for node in own for value in node.outs)
    ins = [value for node in own for value in node.ins if value.const is None and value not in made]
    inside = set(own)
    read = {value for node in frame.nodes if node not in inside for value in node.ins} | {*frame.outs}
    body = Frame(list(dict.fromkeys(ins)), own, [value for value in made if value in read])
    return Node(STRETCH, body.ins, body.outs, own[0].equations, own[0].scope, [body])
