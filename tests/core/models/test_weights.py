from __future__ import annotations

import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import xxhash

from napari_samseg.core.errors import DownloadError, UnknownNameError
from napari_samseg.core.models import list_models, load_model
from napari_samseg.core.models.weights import download, models_folder
from napari_samseg.core.models.zoo import ZOO, PretrainedModel, RemoteFile

CONTENT = bytes(range(256)) * 8192  # 2 MiB, several chunks
HASH = "xxh128:" + xxhash.xxh128(CONTENT).hexdigest()


class FileServer(ThreadingHTTPServer):
    """Serves `content`; can break off, deny ranges, or answer with an error."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), FileHandler)
        self.content = CONTENT
        self.break_after = []  # bytes to send before breaking off, per request
        self.ranges = True
        self.status = None
        self.requested = []  # Range header of each request

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/model.pt"


class FileHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requested.append(asked)
        if server.status is not None:
            self.send_error(server.status)
            return
        start = 0
        if asked and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(server.content):
                self.send_error(416)
                return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        limit = server.break_after.pop(0) if server.break_after else len(body)
        self.wfile.write(body[:limit])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def model(server, tmp_path, monkeypatch):
    """Name of a model in the zoo whose file the local server has."""
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path / "models"))
    file = RemoteFile("model.pt", server.url, HASH)
    entry = PretrainedModel("local", "sam", "a test", file, "none", "none")
    monkeypatch.setitem(ZOO, "local", entry)
    return "local"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "models" / "model.pt"


@pytest.fixture
def part(path):
    return path.with_name("model.pt.part")


def run(steps):
    """Return the progress of a generator and its result."""
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as stop:
            return progress, stop.value


def test_a_model_is_downloaded_with_progress(model, server, path, part):
    progress, result = run(download(model))
    assert result == path
    assert path.read_bytes() == CONTENT
    assert not part.exists()
    done = [step.done for step in progress]
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] == len(CONTENT)
    assert {step.total for step in progress} == {len(CONTENT)}
    assert {step.stage for step in progress} == {"downloading local"}


def test_a_model_that_is_there_is_not_downloaded(model, server, path):
    run(download(model))
    server.requested.clear()
    assert run(download(model))[1] == path
    assert server.requested == []


def test_a_folder_can_be_chosen(model, tmp_path):
    assert run(download(model, tmp_path))[1] == tmp_path / "model.pt"


def test_a_wrong_hash_leaves_nothing(model, server, path, part):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(DownloadError, match=r"hash differs.*thrown away"):
        run(download(model))
    assert not path.exists()
    assert not part.exists()


def test_a_broken_connection_is_resumed(model, server, path):
    server.break_after = [700_000, 600_000]
    run(download(model))
    assert path.read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for asked in server.requested[1:]]
    assert server.requested[0] is None
    assert 0 < starts[0] <= 700_000 < starts[1] <= 1_300_000


def test_a_connection_that_stays_broken_is_an_error_and_is_resumed_later(
    model, server, path, part
):
    server.break_after = [300_000, 300_000, 300_000]
    with pytest.raises(DownloadError, match="could not be downloaded"):
        run(download(model))
    assert not path.exists()
    arrived = part.stat().st_size
    assert arrived > 300_000
    progress, _ = run(download(model))
    assert progress[0].done == arrived
    assert path.read_bytes() == CONTENT


def test_cancelling_leaves_nothing_half_valid_and_is_resumed_later(
    model, server, path, part
):
    steps = download(model)
    while next(steps).done < 500_000:
        pass
    steps.close()
    assert not path.exists()
    arrived = part.stat().st_size
    assert CONTENT.startswith(part.read_bytes())
    run(download(model))
    assert server.requested[-1] == f"bytes={arrived}-"
    assert path.read_bytes() == CONTENT


def test_of_two_downloads_one_waits_for_the_other(model, server, path):
    first, second = download(model), download(model)
    next(first)
    assert "waiting" in next(second).detail
    run(first)
    assert run(second)[1] == path
    assert server.requested == [None]
    assert path.read_bytes() == CONTENT


def test_a_download_given_up_lets_the_other_go_on(model, server, path):
    first, second = download(model), download(model)
    next(first)
    next(second)
    first.close()
    run(second)
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(model, server, path, part):
    part.parent.mkdir()
    part.write_bytes(CONTENT[:1000])
    server.ranges = False
    progress, _ = run(download(model))
    assert progress[0].done == 0
    assert path.read_bytes() == CONTENT


def test_a_part_of_another_file_is_replaced(model, server, path, part):
    part.parent.mkdir()
    part.write_bytes(b"another file")
    run(download(model))
    assert path.read_bytes() == CONTENT
    assert server.requested == ["bytes=12-", None]


@pytest.mark.parametrize("extra", [b"", b"too much"])
def test_a_part_that_is_whole_or_too_long_is_settled_by_its_hash(
    model, server, path, part, extra
):
    part.parent.mkdir()
    part.write_bytes(CONTENT + extra)
    run(download(model))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_error_is_told(model, server, path, status):
    server.status = status
    with pytest.raises(DownloadError, match=str(status)):
        run(download(model))
    assert not path.exists()


def test_offline_the_message_says_what_to_fetch_and_where_to_put_it(
    model, server, path
):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError) as error:
        run(download(model))
    message = str(error.value)
    assert "local could not be downloaded" in message
    assert url in message
    assert f"save it as {path}" in message
    assert "SAMSEG_MODELS" in message


def test_a_folder_that_cannot_be_made_is_named(model, tmp_path):
    (tmp_path / "models").write_text("a file in the way")
    with pytest.raises(DownloadError, match="cannot be written"):
        run(download(model))


def test_another_file_of_that_name_is_left_alone(model, server, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"model\.pt is not the published local"):
        run(download(model))
    assert path.read_bytes() == b"mine"
    assert server.requested == []


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UnknownNameError, match=r"'vit_x'.*vit_b, vit_l"):
        run(download("vit_x"))
    with pytest.raises(UnknownNameError, match=r"'vit_x'.*default, vit_b"):
        load_model("vit_x")


def test_load_model_downloads_and_tells_progress(model, server, monkeypatch, tmp_path):
    torch.save({"layer": torch.ones(2)}, tmp_path / "file.pt")
    server.content = (tmp_path / "file.pt").read_bytes()
    digest = "xxh128:" + xxhash.xxh128(server.content).hexdigest()
    entry = ZOO[model]
    file = RemoteFile("model.pt", server.url, digest)
    monkeypatch.setitem(
        ZOO, model, PretrainedModel("local", "sam", "", file, entry.licence, "")
    )
    stages = []
    with pytest.raises(ValueError, match="local is of no known family"):
        load_model(model, progress=lambda step: stages.append(step.stage))
    assert stages[0] == "downloading local"
    assert stages[-1] == "loading local"


# -- what there is ----------------------------------------------------------------


def test_the_folder_of_models(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMSEG_MODELS", str(tmp_path))
    assert models_folder() == tmp_path
    monkeypatch.delenv("SAMSEG_MODELS")
    assert models_folder().parts[-2:] == ("napari-samseg", "models")


def test_models_are_listed_without_torch():
    code = (
        "import sys; from napari_samseg.core.models import list_models; "
        "print(*list_models()); assert 'torch' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["default", *ZOO]
    assert list(list_models()) == ["default", *ZOO]
