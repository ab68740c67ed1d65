"""Ways to distill, by name: which loss, on what, by what weight beside the labels', and what a step makes of them."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxcomp as jc
from jaxcomp.core.paths import named_leaves
from train.common import labels
from train.common.errors import UserError
from train.common.step import Functions, Objective, Variables, heads, of_heads
from train.tasks.classification import CLASSIFICATION
from train.tasks.task import Batch, Outputs, Task

Shape = Sequence[int]
Term = Callable[[Any, Any, Any, Batch, jax.Array], jax.Array]
"""``(learned values, the student's, the teacher's, the batch, which count) -> [batch] or scalar``."""


class NothingToCompareError(UserError):
    """A method that cannot compare the two networks; the message says why."""


class Method(NamedTuple):
    """A way to distill.

    Attributes:
      reads: what it compares: ``"outputs"`` of any task, ``"logits"`` of classes, ``"features"`` (what the head reads)
        or ``"map"`` (the last feature map).
      soft: the weight of its loss, as published; 0: no teacher is asked.
      make: ``(student's shape, teacher's shape) -> (init, loss)``: values from a key, and a :data:`Term`.
      hard: the weight of the labels' cross-entropy.
      classes: whether it reads labels as numbers of classes, which those that are mixed or smoothed are not.
    """

    reads: str
    soft: float
    make: Callable[[Shape, Shape], tuple[Callable[[jax.Array], Any], Term]]
    hard: float = 1.0
    classes: bool = False


def _plain(loss: Callable[..., jax.Array], labeled: bool = False) -> Callable[[Shape, Shape], Any]:
    """A loss without values of its own."""

    def term(values: Any, student: jax.Array, teacher: jax.Array, batch: Batch, where: jax.Array) -> jax.Array:
        del values
        return loss(student, teacher, *([batch["label"]] if labeled else []), where=where)

    return lambda student, teacher: (lambda key: {}, term)


def _connector(student: Shape, teacher: Shape) -> jc.distill.Connector:
    """Makes a connector of two shapes; tokens that are one or two more than a square have class tokens before them."""
    tokens = [shape[1] for shape in (student, teacher) if len(shape) == 3]
    extra = [count - math.isqrt(count) ** 2 for count in tokens]
    return jc.distill.connect(student, teacher, prefix=extra[0] if extra and extra[0] <= 2 else 0)


def _connected(loss: Callable[..., jax.Array]) -> Callable[[Shape, Shape], Any]:
    """A loss of features of one shape, which the student's are brought to."""

    def make(student: Shape, teacher: Shape) -> Any:
        connector = _connector(student, teacher)
        return connector.init, lambda values, s, t, batch, where: loss(connector.apply(values, s), t, where=where)

    return make


def _variational(student: Shape, teacher: Shape) -> Any:
    connector, loss = _connector(student, teacher), jc.distill.vid(tuple(teacher))

    def init(key: jax.Array) -> Any:
        return {"connector": connector.init(key), "loss": loss.init(key)}

    def term(values: Any, s: jax.Array, t: jax.Array, batch: Batch, where: jax.Array) -> jax.Array:
        return loss.apply(values["loss"], connector.apply(values["connector"], s), t, where=where)

    return init, term


def _same_places(student: Shape, teacher: Shape) -> Any:
    """Attention transfer where maps have other sizes: the student's are resized first, their channels stay."""
    connector = _connector(student, (*teacher[:-1], student[-1]))
    return connector.init, lambda values, s, t, batch, where: jc.distill.attention(
        connector.apply(values, s), t, where=where
    )


def _relations(student: jax.Array, teacher: jax.Array, where: jax.Array) -> jax.Array:
    distance, angle = (loss(student, teacher, where=where) for loss in (jc.distill.rkd_distance, jc.distill.rkd_angle))
    return 25 * distance + 50 * angle


def soft_targets(temperature: float = 4.0, alpha: float = 0.9, task: Task = CLASSIFICATION) -> Method:
    """A teacher's softened outputs, and the labels beside them: Hinton's way, and the main job's.

    ``alpha`` of the one and the rest of the other; at either end the other is not computed: it may be infinite.
    """

    def term(values: Any, outputs: Any, targets: Any, batch: Batch, where: jax.Array) -> jax.Array:
        del values, where
        if not alpha:
            return task.loss(outputs, batch)
        soft = task.soft(outputs, targets, batch, temperature)
        return soft if alpha == 1 else alpha * soft + (1 - alpha) * task.loss(outputs, batch)

    return Method("outputs", 1.0, lambda student, teacher: (lambda key: {}, term), hard=0.0)


METHODS: Mapping[str, Method] = {
    "alone": Method("outputs", 0.0, _plain(jc.distill.mse)),
    "soft targets": soft_targets(),
    "dkd": Method(
        "logits", 1.0, _plain(functools.partial(jc.distill.dkd, temperature=4.0), labeled=True), classes=True
    ),
    "dist": Method("logits", 1.0, _plain(jc.distill.dist)),
    "standardized": Method(
        "logits", 9.0, _plain(functools.partial(jc.distill.standardized(jc.distill.kl), temperature=2.0)), hard=0.1
    ),
    "multi-level": Method("logits", 1.0, _plain(jc.distill.multi_level)),
    "mse": Method("logits", 0.1, _plain(jc.distill.mse)),
    "hint": Method("map", 100.0, _connected(jc.distill.hint)),
    "attention": Method("map", 1000.0, _same_places),
    "vid": Method("map", 1.0, _variational),
    "similarity": Method("features", 3000.0, _plain(jc.distill.similarity)),
    "correlation": Method("features", 0.02, _plain(jc.distill.correlation)),
    "pkt": Method("features", 30000.0, _plain(jc.distill.pkt)),
    "rkd": Method("features", 1.0, _plain(_relations)),
}
"""By name; weights as in the guide on distillation. ``mse`` and ``correlation`` have no published one: ours."""


def named(text: str, own: Mapping[str, Method] = METHODS) -> list[Method]:
    """The methods of a name, or of several joined by ``+``: ``"soft targets + hint"``.

    Raises:
      UserError: for a name that is none; the known ones are listed.

    Example:
      >>> [method.reads for method in named("soft targets + hint")]
      ['outputs', 'map']
    """
    parts = [part.strip() for part in text.split("+")]
    if unknown := [part for part in parts if part not in own]:
        raise UserError(f"{unknown[0]!r} is no way to distill: there are {', '.join(own)}, or several joined by '+'")
    return [own[part] for part in parts]


class Tap(NamedTuple):
    """A value of the student, and one of the teacher that it is compared with.

    Attributes:
      student, teacher: their names, as of :func:`jaxcomp.trace.tap`.
      ours, theirs: their shapes.
    """

    student: str
    teacher: str
    ours: Shape
    theirs: Shape


Taps = Mapping[str, Sequence[Tap]]
"""By what methods read: ``"features"`` and ``"map"``; none where a network has no such value."""


def find_taps(
    teacher: Functions, taught: Variables, student: Functions, variables: Variables, batch: Batch, text: str = ""
) -> dict[str, list[Tap]]:
    """Pairs of values of two networks that methods on features compare.

    Args:
      teacher: its functions.
      taught: its variables.
      student: likewise.
      variables: likewise; shapes do.
      batch: of training, some images.
      text: pairs ``"student=teacher"`` of names that :func:`jaxcomp.trace.values` lists, apart by spaces: those that
        have positions are compared as maps, and all as features. Empty: what the heads read, and the last maps.

    Raises:
      UserError: for a text of another form.
      ArgumentError: for a name of nothing; the nearest are listed.
    """
    if text.strip():
        parts = [part.split("=") for part in text.split()]
        if any(len(part) != 2 or not all(part) for part in parts):
            raise UserError(f"taps are pairs STUDENT=TEACHER of names, apart by spaces, got {text!r}")
        pairs = {"features": parts, "map": parts}
    else:
        seen = where(student.infer, variables, batch["image"]), where(teacher.infer, taught, batch["image"])
        pairs = {kind: [[name, seen[1][kind]]] for kind, name in seen[0].items() if kind in seen[1]}
    flat = [pair for each in pairs.values() for pair in each]
    ours = _shapes(student.learn, variables, batch, [own for own, _ in flat])
    theirs = _shapes(teacher.infer, taught, batch["image"], [other for _, other in flat])
    found = {kind: [Tap(own, other, ours[own], theirs[other]) for own, other in each] for kind, each in pairs.items()}
    maps = [tap for tap in found.get("map", ()) if min(len(tap.ours), len(tap.theirs)) > 2]
    return {**{kind: taps for kind, taps in found.items() if kind != "map"}, **({"map": maps} if maps else {})}


def _shapes(function: Callable[..., Any], variables: Variables, given: Any, names: Sequence[str]) -> dict[str, Shape]:
    tapped = jc.trace.tap(function, variables, given, at=list(dict.fromkeys(names)))
    return {name: value.shape for name, value in jax.eval_shape(tapped, variables, given)[1].items()}


def where(infer: Callable[..., Any], variables: Any, images: jax.Array) -> dict[str, str]:
    """Values of a classifier beside its logits: ``{"features": name, "map": name}``; no map of an MLP.

    The map is what the last convolution or block of positions gives, after its activation where there is one.
    """
    rows = list(jc.trace.values(infer, variables, images))
    kernels = {path.removesuffix("/kernel"): leaf.ndim for path, leaf in named_leaves(variables["params"]).items()}
    found = {"features": f"{rows[-1].name}:input"}
    maps = [row for row in rows if len(row.shape) == 3 or (len(row.shape) == 4 and kernels.get(row.name, 4) == 4)]
    if maps:
        found["map"] = f"{maps[-1].name}:activated" if "activated" in maps[-1].stages else maps[-1].name
    return found


def taught(
    student: Functions,
    teacher: Functions,
    methods: Sequence[Method],
    taps: Taps | None = None,
    stored: int | None = None,
    task: Task = CLASSIFICATION,
) -> Objective:
    """Learning from a teacher, by one method or by several, whose terms are added.

    Labels count as much as the method says that gives them least. ``frozen`` is the teacher's variables.

    Args:
      student: what is trained.
      teacher: its functions.
      methods: of :func:`named`.
      taps: of :func:`find_taps`; methods that read features add a term for each.
      stored: the k of answers that stand in ``batch["soft"]`` (``train.common.labels``); None: the teacher is asked,
        and runs in the step.
      task: what images are asked.

    Raises:
      ArgumentError: where nothing joins the networks' values.
      NothingToCompareError: for a method that reads features where there are none.
    """
    asked = [method for method in methods if method.soft]
    terms = [(method.soft, *term) for method in asked for term in _terms(method, taps or {}, stored, task)]
    hard = min(method.hard for method in methods)
    ours, theirs = ([getattr(tap, side) for _, _, _, tap in terms if tap] for side in ("student", "teacher"))

    def init(key: jax.Array) -> Any:
        made = {str(n): own(jax.random.fold_in(key, n)) for n, (_, own, _, _) in enumerate(terms)}
        return {name: values for name, values in made.items() if values}

    def answers(frozen: Any, batch: Batch, outputs: Outputs) -> tuple[Outputs, dict[str, jax.Array]]:
        if stored is not None:
            return labels.logits(batch["soft"], outputs.shape[-1], stored), {}
        return _read(teacher.infer, theirs, frozen, batch["image"]) if terms else (None, {})

    def of(learned: Any, variables: Variables, batch: Batch, frozen: Any) -> tuple[jax.Array, Outputs, Variables]:
        (given, stats), mine = _read(student.learn, ours, variables, batch)
        outputs = heads(given)[0]
        soft, shown = answers(frozen, batch, outputs)
        counts = batch["valid"] > 0

        def weighed(n: int, own: Any, other: Any) -> jax.Array:
            loss = terms[n][2](learned.get(str(n), {}), own, other, batch, counts)
            return loss if terms[n][0] == 1 else terms[n][0] * loss

        def of_outputs(outputs: Outputs) -> jax.Array:
            losses = [hard * task.loss(outputs, batch)] if hard else []
            losses += [weighed(n, outputs, soft) for n, (*_, tap) in enumerate(terms) if tap is None]
            return functools.reduce(jnp.add, losses)

        total = of_heads(given, of_outputs)
        for n, (*_, tap) in enumerate(terms):
            if tap is not None:
                total = total + weighed(n, mine[tap.student], shown[tap.teacher])
        return total, outputs, stats

    return Objective(of, init)


def _terms(
    method: Method, taps: Taps, stored: int | None, task: Task
) -> list[tuple[Callable[..., Any], Term, Tap | None]]:
    if method.reads == "logits" and task is not CLASSIFICATION:
        raise NothingToCompareError(f"it compares logits of classes, and the task is {task.name}")
    if method.reads in ("logits", "outputs"):
        return [(*method.make((), ()), None)]
    what = "feature maps" if method.reads == "map" else "features"
    if stored is not None:
        raise NothingToCompareError(f"it compares {what}, and of a teacher that ran once there are labels alone")
    if method.reads not in taps:
        raise NothingToCompareError(f"it compares {what}, and one of the networks has none")
    return [(*method.make(tap.ours, tap.theirs), tap) for tap in taps[method.reads]]


def _read(function: Callable[..., Any], names: Sequence[str], *given: Any) -> tuple[Any, dict[str, jax.Array]]:
    """A function's results and values inside it: found where it is traced, so that an axis of pmap is known."""
    if not names:
        return function(*given), {}
    return jc.trace.tap(function, *given, at=list(dict.fromkeys(names)))(*given)
