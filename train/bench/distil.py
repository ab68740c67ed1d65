"""The cost of distillation losses beside the student's own step: each by itself, values and gradients."""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxcomp as jc
from train.bench import qat, timing

Tree = Any
BASELINE = "student's step"
GOAL = 0.03  # of the student's step


class Case(NamedTuple):
    """A loss, and what it is given.

    Attributes:
      loss: ``(learned, student, teacher) -> [batch]`` or a scalar.
      student, teacher: logits or features.
      learned: values that are trained with the student; None: there are none.
    """

    loss: Callable[[Tree, Tree, Tree], jax.Array]
    student: Tree
    teacher: Tree
    learned: Tree = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own options."""
    parser.add_argument("--batch", type=int, default=128, help="images in a batch")
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet that is the student")
    parser.add_argument("--classes", type=int, default=100, help="of the logits that losses are given")
    parser.add_argument("--examples", type=int, default=50_000, help="in CRD's memory")
    parser.add_argument("--negatives", type=int, default=16_384, help="that CRD tells an example from")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times the student's step and each loss, prints a table and writes ``distil.json``."""
    model, variables, batch = qat.subject(args.depth, args.batch)
    timed = {BASELINE: qat.stepper(lambda tree, batch: (model.learn(tree["params"], batch), {}), variables, batch)}
    timed |= {name: stepper(case) for name, case in cases(args).items()}
    rows = timing.summarize(timing.interleave(timed, args.rounds), BASELINE)
    title = f"ResNet-{args.depth}, batch {args.batch}, {args.classes} classes: milliseconds, of each loss alone"
    timing.show(title, rows, BASELINE)
    result = {
        "batch": args.batch,
        "depth": args.depth,
        "classes": args.classes,
        "rounds": args.rounds,
        "goals": {"loss over step": GOAL},
        "rows": rows,
    }
    print(f"written: {timing.write(args.out, 'distil', result)}", flush=True)
    return result


def stepper(case: Case) -> Callable[[], Any]:
    """A function that takes the loss and its gradients to the student and to what it learns."""

    def total(learned: Tree, student: Tree, teacher: Tree) -> jax.Array:
        return jnp.mean(case.loss(learned, student, teacher))

    given = case.learned, case.student, case.teacher
    compiled = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*given).compile()
    return lambda: compiled(*given)


def cases(args: argparse.Namespace) -> dict[str, Case]:
    """name -> loss, on what a ResNet gives and a teacher of twice its width would."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal((args.batch, *shape), np.float32))

    def side(width: int) -> Tree:
        maps = [nn.relu(draw(32 // 2**i, 32 // 2**i, width * 2**i)) for i in range(3)]
        return {"logits": draw(args.classes), "maps": maps, "pooled": nn.relu(draw(4 * width))}

    student, teacher = side(16), side(32)
    labels = jnp.asarray(rng.integers(0, args.classes, args.batch, np.int32))
    return on_logits(student, teacher, labels) | on_maps(student, teacher) | on_pooled(student, teacher, args)


def on_logits(student: Tree, teacher: Tree, labels: jax.Array) -> dict[str, Case]:
    """Losses of logits alone."""
    d = jc.distill
    losses: dict[str, Callable[..., jax.Array]] = {
        "kl": functools.partial(d.kl, temperature=4.0),
        "soft_and_hard": lambda s, t: d.soft_and_hard(s, t, labels),
        "dkd": lambda s, t: d.dkd(s, t, labels),
        "dist": d.dist,
        "standardized(kl)": functools.partial(d.standardized(d.kl), temperature=2.0),
        "multi_level": d.multi_level,
        "mse": d.mse,
        "cosine": d.cosine,
        "rank_pairs": d.rank_pairs,
        "rank_list": d.rank_list,
        "binary_kl": d.binary_kl,
    }
    found = {name: Case(_unlearned(loss), student["logits"], teacher["logits"]) for name, loss in losses.items()}
    classes = student["logits"].shape[-1]
    kept = jc.distill.store_labels(teacher["logits"])
    return found | {
        "kl, stored answers": Case(lambda _, s, t: losses["kl"](s, d.load_labels(t, classes)), student["logits"], kept)
    }


def on_maps(student: Tree, teacher: Tree) -> dict[str, Case]:
    """Losses of the feature maps of all three stages, or of the last."""
    d, (ours, theirs) = jc.distill, (student["maps"], teacher["maps"])
    last, target = ours[-1], theirs[-1]
    connector = d.connect(last.shape, target.shape)
    normed = [d.connect(a.shape, b.shape, norm=True) for a, b in zip(ours, theirs, strict=True)]
    margins = [jnp.full(b.shape[-1], -0.8) for b in theirs]
    review = d.review([x.shape for x in ours], [x.shape for x in theirs])
    keys = jax.random.split(jax.random.key(0), 5)
    learned = [each.init(key) for each, key in zip(normed, keys, strict=False)]

    def overhaul(learned: Tree, student: Tree, teacher: Tree) -> jax.Array:
        parts = zip(normed, learned, student, teacher, margins, strict=True)
        return sum((d.ofd(c.apply(v, s), t, m) for c, v, s, t, m in parts), jnp.zeros(()))

    def attention(student: Tree, teacher: Tree) -> jax.Array:
        return sum((d.attention(s, t) for s, t in zip(student, teacher, strict=True)), jnp.zeros(()))

    def connected(loss: Callable[..., jax.Array]) -> Case:
        return Case(lambda v, s, t: loss(connector.apply(v, s), t), last, target, connector.init(keys[3]))

    return {
        "hint": connected(d.hint),
        "channel_wise": connected(d.channel_wise),
        "attention, 3 stages": Case(_unlearned(attention), ours, theirs),
        "fsp": Case(_unlearned(d.fsp), (last, last), (target[..., :64], target[..., 64:])),
        "nst": Case(_unlearned(d.nst), last, target),
        "similarity": Case(_unlearned(d.similarity), last, target),
        "ofd, 3 stages": Case(overhaul, ours, theirs, learned),
        "review, 3 stages": Case(review.apply, ours, theirs, review.init(keys[4])),
    }


def on_pooled(student: Tree, teacher: Tree, args: argparse.Namespace) -> dict[str, Case]:
    """Losses of one vector an example."""
    d, (ours, theirs) = jc.distill, (student["pooled"], teacher["pooled"])
    connector, vid = d.connect(ours.shape, theirs.shape), d.vid(theirs.shape)
    keys = jax.random.split(jax.random.key(1), 4)
    values = connector.init(keys[0]), vid.init(keys[1])
    contrast = d.crd(ours.shape, theirs.shape, args.examples)
    learned, memory = contrast.init(keys[2])
    index = jnp.arange(args.batch)
    draw = d.crd_negatives(np.arange(args.examples) % args.classes, args.negatives)

    def contrasted(values: Tree, student: Tree, given: Tree) -> jax.Array:
        teacher, memory, index = given
        return contrast.apply(values, memory, student, teacher, index, draw(keys[3], index))[0]

    relations = ("correlation", "pkt", "rkd_distance", "rkd_angle")
    return {name: Case(_unlearned(getattr(d, name)), ours, theirs) for name in relations} | {
        "vid": Case(lambda v, s, t: vid.apply(v[1], connector.apply(v[0], s), t), ours, theirs, values),
        "crd": Case(contrasted, ours, (theirs, memory, index), learned),
    }


def _unlearned(loss: Callable[..., jax.Array]) -> Callable[[Tree, Tree, Tree], jax.Array]:
    return lambda learned, student, teacher: loss(student, teacher)
