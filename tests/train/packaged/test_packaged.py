"""Networks of packages: what is judged by, and, where the packages are installed, that our functions are theirs."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.common.errors import UserError
from train.packaged import __main__ as main
from train.packaged import faces, prose, selfie, text, voice
from train.packaged.__main__ import NETWORKS, difference, ran
from train.packaged.subject import Folders, Part, of_pypi

NPM = Path(__file__).parents[3] / "node_modules"


def test_what_is_missing_is_said_with_what_installs_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no_such/a\.onnx is missing: pip install --no-deps such"):
        of_pypi("no_such", "a.onnx", "such")
    with pytest.raises(UserError, match=r"a\.tflite is missing: npm install --prefix .* @one/two, or give --npm"):
        Folders(tmp_path / "node_modules").of_npm("@one/two", "a.tflite")


def test_frames_are_judged_by_their_decision() -> None:
    theirs = np.array([0.1, 0.9, 0.6, 0.4])
    assert voice.compared(np.array([0.2, 0.8, 0.4, 0.1]), theirs) == {"score": 0.75, "frames": 4, "speech": 0.5}
    sound = np.arange(3 * voice.FRAME, dtype=np.float32)
    frames = voice.framed(sound)
    np.testing.assert_array_equal(frames[1], sound[voice.FRAME - voice.CONTEXT : 2 * voice.FRAME])
    assert not frames[0, : voice.CONTEXT].any()


def test_masks_are_judged_by_their_overlap_where_there_is_a_person() -> None:
    theirs = np.zeros((3, 10, 10, 1))
    theirs[:2, :, :5] = 1
    ours = theirs.copy()
    ours[1, :, 4] = 0
    ours[2] = 1
    found = selfie.compared(ours, theirs)
    assert found == {"score": pytest.approx(0.9), "least": pytest.approx(0.8), "photographs": 2}


def test_faces_are_averaged_and_judged_by_their_overlap() -> None:
    regressed, scores = np.zeros((1, 2304, 16)), np.full((1, 2304, 1), -9.0)
    at = 20 * faces.CELLS + 10  # its middle is at (42, 82)
    for place, sure, shift in ((at, 3.0, 0.0), (at + 1, 1.0, 0.0), (2000, 2.0, 0.0), (5, 0.0, 0.0)):
        scores[0, place], regressed[0, place, :4] = sure, [shift, 0, 20, 30]
    own = faces.found(regressed, scores)
    a, b = (1 / (1 + np.exp(-x)) for x in (3.0, 1.0))
    left = (a * 32 + b * 36) / (a + b)
    np.testing.assert_allclose(own[0], [left, 67, left + 20, 97], atol=1e-6)
    assert len(own) == 2
    moved = own + np.array([[0, 0, 0, 0], [4, 0, 4, 0]])
    figures = faces.compared([moved], [own])
    mean, least = (pytest.approx(n) for n in ((1 + 16 / 24) / 2, 16 / 24))
    assert figures == {"score": 0.5, "mean": mean, "least": least, "faces": 2, "more": 0}
    assert faces.compared([np.zeros((0, 4))], [own])["least"] == 0


def test_lines_are_judged_by_what_they_say_where_they_are() -> None:
    lines = [text.Line((5, 5, 90, 25), "one"), text.Line((5, 40, 90, 60), "two")]
    other = [lines[0]._replace(box=(4, 6, 91, 24)), lines[1]._replace(text="too"), text.Line((5, 70, 9, 80), "more")]
    assert text.compared([other], [lines]) == {"score": 0.5, "lines": 2, "more": 1}
    assert text.pages(1, held_out=True)[0].shape == (text.SIDE, text.SIDE, 3)


def test_rows_on_other_sentences_are_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "DOCS", tmp_path)
    measured: list[tuple[str, ...]] = []
    monkeypatch.setattr(main, "judged", lambda name, args, of: measured.append((name, *of)) or {})
    monkeypatch.setattr(main, "line", str)
    for said in ("pruning", "pruning", "packing"):
        (tmp_path / "a.md").write_text(f"This page has a sentence, and it is of {said}.")
        main.job(main.parse(["--networks", "voice", "faces", f"--workdir={tmp_path / 'run'}"]))
    assert [name for name, *_ in measured] == ["voice", "faces", "voice"]
    assert measured[0] != measured[2]  # nor are the files of the others taken for theirs


def test_what_is_sure_and_what_is_no_face_count_as_they_should() -> None:
    sure = jnp.array([0.5, 0.9999])
    logits = jax.scipy.special.logit(sure)
    felt, plain = (
        jax.grad(lambda logits, f=f: f(jax.nn.sigmoid(logits)).sum())(logits) for f in (selfie.softened, lambda x: x)
    )
    assert felt[1] > 0.2 * felt[0]
    assert plain[1] < 0.001 * plain[0]
    boxes = jnp.tile(jnp.array([1.0, 2.0, 20.0, 30.0] + [5.0] * 12), (1, 3, 1))
    scores = jnp.array([-9.0, 3.0, 3.0]).reshape(1, 3, 1)
    _, parts = faces.counted((boxes.at[0, 2].multiply(2), scores))
    size = jnp.abs(parts).max((0, 2))
    assert size[0] < 0.001 * size[1]
    np.testing.assert_allclose(size[1], size[2], rtol=1e-5)


def test_what_a_stopped_run_has_made_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"w": jnp.arange(-6.0, 6.0).reshape(4, 3) / 7}
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    part = Part(tmp_path / "a.onnx", lambda p, x: x @ p["w"], params, None, [x], "rate1e-5", counts=None)
    first = main.made(part, part.setting, tmp_path / "a.jcz", 0.01)
    np.testing.assert_allclose(first(x), x @ np.asarray(params["w"]), atol=0.1)
    monkeypatch.setattr(main, "Smaller", None)
    np.testing.assert_array_equal(main.made(part, part.setting, tmp_path / "a.jcz", 0.01)(x), first(x))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NETWORKS)
def test_a_packages_file_is_computed_as_its_own_runtime_does(name: str) -> None:
    try:
        subject = importlib.import_module(f"train.packaged.{name}").load(Folders(NPM))
    except UserError as error:
        pytest.skip(str(error))
    for part in subject.parts.values():
        assert difference(ran(part.function, part.params), part) < 1e-4
