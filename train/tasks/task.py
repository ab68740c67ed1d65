"""Tasks: data, loss, score and pictures behind one protocol; the job asks for nothing else."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Batch = dict[str, jax.Array]
"""``image [batch, h, w, c]`` uint8, ``label [batch, ...]`` of the task's kind, ``valid [batch]``, ``index [batch]``."""

Outputs = Any
"""A network's outputs: an array ``[batch, ...]``, or a dict of such arrays."""


class Picture(NamedTuple):
    """A drawing of a report.

    Attributes:
      heading: plain text.
      draw: ``(width=inches) -> matplotlib figure``; without a width that of a page.
      file: the PNG beside the report that shows it too, if any.
    """

    heading: str
    draw: Callable[..., Any]
    file: str | None = None


class Columns(NamedTuple):
    """Which features of a TFDS set a task reads.

    Attributes:
      image: the name of the images' feature.
      label: the name of that of the answers.
      classes: how many there are; None where the set does not say, and the answers have to be looked through.
    """

    image: str
    label: str
    classes: int | None


class Task(Protocol):
    """A question about images, and how its answers are learned, scored and shown.

    Labels of a split are one array ``[n, ...]``, so that a batch is cut, spread and padded alike for all tasks. Every
    network takes images ``[batch, h, w, c]``; outputs are what :meth:`outputs` accepts.

    Attributes:
      name: as on the command line.
      metric: the key of the figure among those of :meth:`score` by which networks are compared, a fraction.
      title: that figure's name for people.
      whole: whether an answer belongs to an image as a whole, whatever is moved in it. Else ``shift`` and ``flip`` are
        views of jc.augment, which move the answers with the image.
      needs: the features of a TFDS set that it needs, in words.
    """

    name: str
    metric: str
    title: str
    whole: bool
    needs: str

    def __hash__(self) -> int:
        """Tasks are values: programs are compiled once for each."""

    def embedded(self, split: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Images, labels and the number of classes of ``digits``, ``"train"`` or ``"test"``, without a download."""

    def columns(self, features: Mapping[str, Any], keys: Sequence[str]) -> Columns | None:
        """Returns the features that it reads of a TFDS set; None if the set has none such.

        Args:
          features: of the set, by name.
          keys: the two that the set itself names as input and answer, if it does.
        """

    def examples(self, image: np.ndarray, label: Any, size: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns the training examples of a record: pairs of an image of the given side and a label that fits it.

        Raises:
          ValueError: for a label that cannot be: boxes outside of the image, a mask of another size.
        """

    def stacked(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        """The labels of a split as one array."""

    def check(self, where: str, images: Any, labels: np.ndarray, classes: int, learned: bool) -> None:
        """Refuses labels that cannot be; warns of those from which little is learned.

        Raises:
          UserError: the first record that is wrong is named.
        """

    def outputs(self, outputs: Outputs, images: Sequence[int], classes: int) -> None:
        """Refuses a network that does not answer what is asked.

        Args:
          outputs: shapes of what it gives for one image.
          images: ``(1, h, w, c)``.
          classes: of the data set.

        Raises:
          ValueError: with what is needed and what came.
        """

    def moving(self, batch: Batch) -> Any:
        """The labels of a batch as ``jc.augment`` takes them."""

    def moved(self, labels: Any, batch: Batch) -> jax.Array:
        """The label array of what ``jc.augment`` gave back."""

    def loss(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """Computes the loss against the labels: ``[batch]``."""

    def soft(self, outputs: Outputs, targets: Outputs, batch: Batch, temperature: float) -> jax.Array:
        """Computes the loss against a teacher's outputs: ``[batch]``."""

    def right(self, outputs: Outputs, batch: Batch) -> jax.Array:
        """The share of the answers that are right, in [0, 1]: ``[batch]``. Cheap: it is recorded of every step."""

    def predict(self, outputs: Outputs, size: Sequence[int]) -> jax.Array:
        """The answers for images of a height and a width: ``[batch, ...]``."""

    def score(self, predicted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """How good answers are: fractions, :attr:`metric` among them, and ``undefined``: images whose answer is NaN."""

    def pictures(self, images: np.ndarray, labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> list[Picture]:
        """Draws the answers before and after compression for a report."""
