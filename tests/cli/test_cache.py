"""The commands for stores of embeddings, on real folders."""

from __future__ import annotations

import dataclasses
import re
import shutil

import psutil
import pytest
import torch
from embedding_stores import RECIPE, SHORT, fill, get, put
from typer.testing import CliRunner

from napari_samseg.cli import app
from napari_samseg.cli_cache import parse_size
from napari_samseg.core.cache.seal import to_sealed_bytes
from napari_samseg.core.cache.zarr_store import EmbeddingStore

OTHER = dataclasses.replace(SHORT, image="other[1].tif", model="vit_b")


@pytest.fixture
def run(monkeypatch):
    """Run a cache command in a wide terminal; return status, output, messages."""
    from napari_samseg import cli_terminal

    monkeypatch.setattr(cli_terminal.output, "width", 200)

    def run(*arguments, answer=""):
        words = ["cache", *(str(argument) for argument in arguments)]
        result = CliRunner().invoke(app, words, input=answer)
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def folder(tmp_path):
    """Two whole entries."""
    folder = tmp_path / "store"
    fill(EmbeddingStore(folder))
    fill(EmbeddingStore(folder), OTHER)
    return folder


def test_the_list_is_that_of_the_store(run, folder):
    put(EmbeddingStore(folder).entry(RECIPE), (0, 0), 0, "p")
    status, output, _ = run("list", folder)
    assert status == 0
    rows = [re.split(" {2,}", line.strip()) for line in output.splitlines()]
    cells = {row[1]: row for row in rows if len(row) > 5}
    assert cells["other[1].tif"][2:6] == ["vit_b", "2/2", "2", "float16"]
    assert cells["stack.tif"][3] == "1/12"
    assert RECIPE.digest.startswith(cells["stack.tif"][0])
    assert str(folder) in output


def test_the_store_of_the_cache_folder_is_meant_where_none_is_named(
    run, folder, monkeypatch, tmp_path
):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))
    status, _, messages = run("verify")
    assert status == 2
    assert "there is no store of embeddings" in messages
    assert not (tmp_path / "cache").exists()
    shutil.copytree(folder, tmp_path / "cache" / "embeddings")
    assert "short.tif" in run("list")[1]
    assert run("verify")[0] == 0


def test_a_narrow_terminal_still_says_which_image(run, folder, monkeypatch):
    from napari_samseg import cli_terminal

    monkeypatch.setattr(cli_terminal.output, "width", 80)
    output = run("list", folder)[1]
    assert "short.tif" in output
    assert max(map(len, output.splitlines()[:6])) <= 80


@pytest.mark.parametrize("command", ["list", "info"])
def test_a_cache_folder_that_was_never_used_is_no_error(
    run, command, tmp_path, monkeypatch
):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "never"))
    status, output, _ = run(command)
    assert status == 0
    assert "nothing is kept yet" in output
    assert not (tmp_path / "never").exists()
    status, _, messages = run(command, tmp_path / "gone")
    assert status == 2
    assert "gone" in messages


def test_planes_that_were_never_asked_for_are_not_missing(run, tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    for tile in range(len(RECIPE.tiles)):
        put(store.entry(RECIPE), RECIPE.plane_at(0), tile, "p")
    assert run("verify", tmp_path / "store")[0] == 1
    assert run("verify", tmp_path / "store", "--planes", "0:1")[0] == 0
    assert run("verify", tmp_path / "store", "--planes", "0:2")[0] == 1
    status, _, messages = run("verify", tmp_path / "store", "--planes", "12:20")
    assert status == 2
    assert "0:12" in messages
    fill(store)  # a stack of two planes
    assert run("verify", tmp_path / "store", "--planes", "0:1")[0] == 0
    status, output, _ = run("verify", tmp_path / "store", "--planes", "0:12")
    assert status == 1
    assert "11 missing: 0,1" in output
    assert "START:STOP" in run("verify", tmp_path / "store", "--planes", "a")[2]


def test_info_says_how_it_was_made(run, folder):
    status, output, _ = run("info", folder)
    assert status == 0
    for text in (
        *(str(folder), SHORT.digest, "other[1].tif", "vit_b", "float32"),
        *("normalisation percentile", "2 of 2, 40 x 30 uint16", "16 x 8 x 8 float16"),
        f"made by   napari-samseg {SHORT.plugin_version}",
    ):
        assert text in output


def test_info_knows_the_files_of_other_programs(run, tmp_path):
    path = tmp_path / "embedding.pt"
    sizes = {"original_size": (48, 96), "input_size": (32, 64)}
    torch.save(
        {"features": torch.zeros(1, 8, 4, 4), "is_image_set": True, **sizes}, path
    )
    status, output, _ = run("info", path)
    assert status == 0
    assert "the state of a SAM predictor" in output
    assert "8 x 4 x 4" in output
    assert "not stated" in output
    (tmp_path / "notes.txt").touch()
    status, _, messages = run("info", tmp_path / "notes.txt")
    assert status == 2
    assert "is a file, not a folder of embeddings" in messages


def test_verify_fails_if_anything_is_off_and_repair_helps(run, folder):
    status, output, _ = run("verify", folder)
    assert status == 0
    assert f"{folder}: nothing is wrong or missing" in output
    path = folder / SHORT.digest / "features" / "c" / "1" / "0/0/0/0"
    path.write_bytes(path.read_bytes()[:-1])
    status, output, _ = run("verify", folder)
    assert status == 1
    assert "1 damaged: 1" in output
    assert run("verify", folder, "--entry", OTHER.digest[:6])[0] == 0
    status, output, _ = run("repair", folder)
    assert status == 0
    assert "1 damaged plane put into quarantine" in output
    status, output, _ = run("verify", folder)
    assert status == 1
    assert "1 missing: 1" in output
    put(EmbeddingStore(folder).entry(SHORT), (1,), 1)
    assert run("verify", folder)[0] == 0
    run("repair", folder)
    assert run("repair", folder)[1] == "nothing had to be done\n"


def test_a_store_whose_own_metadata_are_cut_off_is_repaired(run, folder):
    (folder / "zarr.json").write_text("{")
    status, _, messages = run("verify", folder)
    assert status == 2
    assert "napari-samseg cache repair" in messages
    assert run("repair", folder)[0] == 0
    assert run("verify", folder)[0] == 0


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_nothing_is_deleted_without_a_yes(run, folder, answer):
    for words in (
        ("delete", folder, "--entry", SHORT.digest[:5]),
        ("delete", folder, "--all"),
        ("prune", folder, "--max-size", "0"),
    ):
        assert run(*words, answer=answer)[0] == 1
    assert len(EmbeddingStore(folder).digests()) == 2


def test_deleting(run, folder):
    status, output, messages = run(
        "delete", folder, "--entry", SHORT.digest[:5], answer="y\n"
    )
    assert status == 0
    assert f"Delete entry {SHORT.digest}" in messages
    assert "freed " in output
    assert EmbeddingStore(folder).digests() == [OTHER.digest]
    assert run("delete", folder, "--all", "--yes")[0] == 0
    assert EmbeddingStore(folder).digests() == []
    assert run("delete", folder, "--yes")[0] == 2
    assert run("delete", folder, "--all", "--entry", "a")[0] == 2
    assert run("delete", folder, "--entry", "abc", "--yes")[0] == 2


def test_pruning_says_what_goes(run, folder):
    status, output, _ = run("prune", folder, "--max-size", "1 GB")
    assert status == 0
    assert output.startswith("freed 0 bytes, ")
    size = EmbeddingStore(folder).entry(OTHER).nbytes()
    status, output, _ = run("prune", folder, "--max-size", f"{size}B", "--yes")
    assert status == 0
    assert ("short.tif" in output) != ("other[1].tif" in output)
    assert len(EmbeddingStore(folder).digests()) == 1


def test_only_what_was_agreed_to_is_pruned(run, folder, monkeypatch):
    """While the question is open, another stack becomes the one used last."""

    def answer(*_, **__):
        for recipe in (SHORT, OTHER):
            seconds = 2e9 if recipe is oldest else 0
            keys = EmbeddingStore(folder).keys(recipe.digest)
            keys.set("used", to_sealed_bytes({"time": seconds}))

    monkeypatch.setattr("typer.confirm", answer)
    store = EmbeddingStore(folder)
    oldest = OTHER
    store.keys(OTHER.digest).set("used", to_sealed_bytes({"time": 0}))
    size = max(store.entry(recipe).nbytes() for recipe in (SHORT, OTHER))
    assert run("prune", folder, "--max-size", f"{size}B")[0] == 0
    assert store.digests() == [SHORT.digest]


def test_commands_let_go_of_a_zip_file(run, folder, tmp_path, monkeypatch):
    out = tmp_path / "store.zip"
    run("export", folder, "--out", out)
    open_root = EmbeddingStore._open_root
    opened, closed = [], []

    def keep(self):
        opened.append(self)  # from the garbage collector
        open_root(self)

    monkeypatch.setattr(EmbeddingStore, "_open_root", keep)
    for words in (("list",), ("info",), ("verify",), ("verify", "--entry", "{}")):
        status, _, _ = run(words[0], out, *(w.format(SHORT.digest) for w in words[1:]))
        files = {file.path for file in psutil.Process().open_files()}
        closed.append((status, str(out) not in files))
    assert len(opened) == 4
    assert closed == [(0, True)] * 4


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0),
        ("12", 12),
        ("5GB", 5 * 10**9),
        ("1.5 kb", 1500),
        ("2GiB", 2**31),
        ("3T", 3 * 10**12),
    ],
)
def test_sizes_are_understood(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "much", "-1GB", "1..2GB", "5XB"])
def test_sizes_that_are_none_are_refused(run, folder, text):
    status, _, messages = run("prune", folder, f"--max-size={text}", "--yes")
    assert status == 2
    assert "5GB or 500MB" in messages
    assert len(EmbeddingStore(folder).digests()) == 2


def test_an_export_is_a_store(run, folder, tmp_path):
    out = tmp_path / "short.zip"
    status, output, _ = run("export", folder, "--out", out, "--entry", SHORT.digest[:5])
    assert (status, output) == (0, f"wrote {out}\n")
    assert get(EmbeddingStore(out, write=False).entry(SHORT), (1,)) is not None
    assert run("verify", out)[0] == 0
    assert "short.tif" in run("list", out)[1]
    status, _, messages = run("delete", out, "--all", "--yes")
    assert status == 2
    assert "only be read" in messages
    assert run("repair", out)[0] == 2
    assert run("export", folder, "--out", tmp_path / "short.tar")[0] == 2
