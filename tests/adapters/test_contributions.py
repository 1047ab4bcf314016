"""The stack that is downloaded, from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tifffile

from napari_samseg.adapters import contributions
from napari_samseg.core.errors import DownloadError


class CountingHandler(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stack():
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (20, 8, 9), dtype=np.uint8)


@pytest.fixture
def server(tmp_path, stack, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    for i, section in enumerate(stack):
        tifffile.imwrite(served / f"{i:02d}.tif", section)

    def handler(*arguments):
        return CountingHandler(*arguments, directory=str(served))

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.requested = []
    server.served = served
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/" + "{:02d}.tif"
    monkeypatch.setattr(contributions, "SSTEM_URL", url)
    digest = hashlib.sha256(stack.tobytes()).hexdigest()
    monkeypatch.setattr(contributions, "SSTEM_SHA256", digest)
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_stack_is_fetched_once_and_has_its_voxel_size(server, stack):
    ((data, attributes, kind),) = contributions.sstem_sample()
    np.testing.assert_array_equal(data, stack)
    assert kind == "image"
    assert attributes["scale"] == (50.0, 4.6, 4.6)
    assert attributes["units"] == ("nm", "nm", "nm")
    contributions.sstem_sample()
    assert len(server.requested) == 20


def test_a_broken_download_goes_on_where_it_stopped(server, stack):
    missing = server.served / "07.tif"
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(DownloadError, match=r"section 8 of 20.*07\.tif"):
        contributions.sstem_sample()
    missing.write_bytes(content)
    server.requested.clear()
    ((data, _, _),) = contributions.sstem_sample()
    np.testing.assert_array_equal(data, stack)
    assert server.requested == [f"/{i:02d}.tif" for i in range(7, 20)]


def test_other_pixels_than_the_published_ones_are_thrown_away(server, stack):
    wrong = server.served / "03.tif"
    tifffile.imwrite(wrong, 255 - stack[3])
    with pytest.raises(DownloadError, match="not the published ones"):
        contributions.sstem_sample()
    tifffile.imwrite(wrong, stack[3])
    ((data, _, _),) = contributions.sstem_sample()
    np.testing.assert_array_equal(data, stack)


def test_the_checksum_is_that_of_the_real_stack(shared_data):
    pixels = tifffile.imread(shared_data / "em_vnc_sstem" / "raw.tif")
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == contributions.SSTEM_SHA256
