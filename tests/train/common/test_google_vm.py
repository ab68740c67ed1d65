"""A virtual machine of Google's, played by a metadata server on loopback."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from train.common import google_vm

PREFIX = "/computeMetadata/v1/instance/"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """What the server answers by key, one after the other, the last again and again; it is this machine's."""
    answers: dict[str, list[str]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.path.removeprefix(PREFIX).split("?")[0]
            known = answers.get(key, []) if self.headers["Metadata-Flavor"] == "Google" else []
            self.send_response(200 if known else 404)
            self.end_headers()
            if known:
                self.wfile.write((known.pop(0) if len(known) > 1 else known[0]).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        yield answers
        server.shutdown()


def test_a_slice_says_how_many_hosts_it_has(said: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES"):
        monkeypatch.delenv(name, raising=False)
    said["attributes/worker-network-endpoints"] = ["unused:8470:10.0.0.2,unused:8470:10.0.0.3,b:1:c,d:1:e"]
    assert google_vm.slice_hosts() == 1  # no device files of a TPU: nothing is asked
    monkeypatch.setattr(google_vm, "has_tpu", lambda: True)
    assert google_vm.slice_hosts() == 4
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
    assert google_vm.slice_hosts() == 8
    monkeypatch.delenv("MEGASCALE_NUM_SLICES")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")  # Kubernetes
    assert google_vm.slice_hosts() == 2
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES")
    said.clear()
    assert google_vm.slice_hosts() == 1


def test_a_preempted_machine_acts_once_it_is_told(said: dict, capsys: pytest.CaptureFixture[str]) -> None:
    said["preempted"] = ["FALSE", "TRUE"]
    acted = threading.Event()
    watching = google_vm.stop_when_preempted(acted.set)
    assert watching
    assert acted.wait(20)
    watching.join(20)
    assert "this machine is being taken away (preempted): saving" in capsys.readouterr().err


def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GCE_METADATA_IP", raising=False)
    monkeypatch.setattr(google_vm, "_PRODUCT", google_vm.Path("/nowhere"))
    assert google_vm.stop_when_preempted() is None
