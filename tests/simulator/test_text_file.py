"""One reader of the user's texts: devices and files without an end are refused with a sentence, pipes are read."""

import os
import threading

import pytest
from typer.testing import CliRunner

from vtrain_sim import text_file
from vtrain_sim.commands import sim
from vtrain_sim.errors import SpecError, UserError
from vtrain_sim.text_file import read_bytes, read_text

ON = ["--cluster", "dgx-h100"]


def test_a_text_without_its_byte_order_mark_and_with_plain_ends_of_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert read_text(tmp_path / "a.txt") == "one\ntwo\n"
    assert read_bytes(tmp_path / "a.txt").endswith(b"one\r\ntwo\n")


def test_what_is_no_text_not_there_or_a_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="it is not text"):
        read_text(tmp_path / "a")
    with pytest.raises(SpecError, match="No such file"):
        read_text(tmp_path / "b")
    with pytest.raises(SpecError, match="Is a directory"):
        read_text(tmp_path)


def test_a_pipe_is_read_and_a_limit_holds_for_it_too(tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "LARGEST_BYTES", 1 << 20)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for size, fits in ((1 << 20, True), (1 << 21, False)):

        def write(size=size):
            try:
                pipe.write_bytes(b"x" * size)
            except BrokenPipeError:
                pass

        writer = threading.Thread(target=write)
        writer.start()
        if fits:
            assert len(read_text(pipe)) == size
        else:
            with pytest.raises(SpecError, match="more than 1 MiB"):
                read_text(pipe)
        writer.join(10)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no /dev/zero")
@pytest.mark.parametrize(
    "arguments",
    [
        ["project", *ON, "--megatron-args", "/dev/zero"],
        ["project", *ON, "--megatron-args", "zero.yaml"],
        ["project", *ON, "--megatron-args", "zero.pt"],
        ["project", *ON, "--spec", "/dev/zero"],
        ["project", *ON, "--model", "zero.json"],
        ["project", "--model", "llama3-8b", "--cluster", "zero.toml"],
        ["validate", "/dev/zero"],
        ["study", "zero.toml", "--out", "out"],
        ["schedule", *ON, "--num-gpus", "8", "--trace", "zero.csv"],
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)
def test_no_command_reads_a_device(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ending in ("yaml", "pt", "json", "toml", "csv"):
        (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
    result = CliRunner().invoke(sim.app, arguments)
    assert isinstance(result.exception, UserError)
    assert "it is a device, neither a file nor a pipe" in str(result.exception)
