"""`--confine DIR`: nothing that data names is read outside a folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsevit_plugin.cli.main import main
from sparsevit_plugin.confinement import (
    FLAG,
    VARIABLE,
    also_readable,
    check_confined,
    confined_to,
    take_flag,
)
from sparsevit_plugin.errors import UserError
from sparsevit_plugin.harness.images import read_image
from sparsevit_plugin.harness.map_files import read_map
from sparsevit_plugin.harness.photo_paths import find_photographs
from sparsevit_plugin.harness.sources import read_source

MOST_PIXELS = 1 << 24


@pytest.fixture
def place(tmp_path, make_set, make_photo):
    """A folder with a set, and a photograph outside it."""
    make_set(tmp_path / "inside" / "set", stems=["a", "b"])
    make_photo(tmp_path / "outside" / "secret.jpg", seed=5)
    return tmp_path


def write_list(path: Path, *pairs: tuple[str, str]) -> Path:
    path.write_text(json.dumps([list(pair) for pair in pairs]))
    return path


def test_what_lies_inside_is_read_as_ever(place):
    with confined_to(place / "inside"):
        (source,) = read_source(place / "inside" / "set").values()
        assert len(source) == 2
        read_image(source.samples[0].image)
    assert VARIABLE not in os.environ


def test_a_folder_of_the_process_itself_is_read_too_and_a_link_in_it_is_not(place, make_photo):
    secret, upload = place / "outside" / "secret.jpg", place / "uploads" / "one.jpg"
    make_photo(upload)
    (upload.parent / "link.jpg").symlink_to(secret)
    with confined_to(place / "inside"):
        with also_readable(upload.parent):
            read_image(upload)
            with pytest.raises(UserError, match="lies outside"):
                read_image(upload.parent / "link.jpg")
        with pytest.raises(UserError, match="lies outside"):
            read_image(upload)


@pytest.mark.parametrize("written", ["absolute", "relative", "link"])
def test_a_list_that_names_a_file_outside_is_refused_before_anything_starts(place, written):
    secret = place / "outside" / "secret.jpg"
    named = {"absolute": str(secret), "relative": "../outside/secret.jpg", "link": "link.jpg"}
    (place / "inside" / "link.jpg").symlink_to(secret)
    listing = write_list(place / "inside" / "list.json", (named[written], "Negative"))
    assert len(next(iter(read_source(listing).values()))) == 1  # by default lists may
    with (
        confined_to(place / "inside"),
        pytest.raises(UserError, match=r"secret\.jpg.* lies outside .*inside, and --confine"),
    ):
        read_source(listing)


def test_a_link_among_photographs_to_predict_is_refused_before_any_is_read(place):
    link = place / "inside" / "set" / "Tp" / "link.jpg"
    link.symlink_to(place / "outside" / "secret.jpg")
    assert len(find_photographs([str(link.parent)])) == 3
    with (
        confined_to(place / "inside"),
        pytest.raises(UserError, match=r"link\.jpg .*secret\.jpg.* lies outside"),
    ):
        find_photographs([str(link.parent)])


def test_a_mask_a_list_and_a_map_outside_are_refused(place):
    image = next((place / "inside" / "set" / "Tp").iterdir())
    secret = place / "outside" / "secret.jpg"
    mask = secret.with_name(image.name)
    mask.write_bytes(secret.read_bytes())
    listing = write_list(place / "inside" / "list.json", (str(image), str(mask)))
    other = write_list(place / "outside" / "list.json", (str(image), "Negative"))
    named = place / "inside" / "named.json"
    named.write_text(json.dumps({"mine": str(other)}))
    with confined_to(place / "inside"):
        for path in (listing, other, named):
            with pytest.raises(UserError, match="lies outside"):
                read_source(path)
        with pytest.raises(UserError, match="lies outside"):
            read_map(place / "outside" / "map.png", MOST_PIXELS)
        with pytest.raises(UserError, match="lies outside"):
            read_image(secret)


def test_a_folder_whose_name_begins_alike_is_outside(tmp_path):
    (tmp_path / "data").mkdir()
    with confined_to(tmp_path / "data"), pytest.raises(UserError, match="lies outside"):
        check_confined(tmp_path / "data-of-others" / "x.png")


def test_a_link_to_the_folder_itself_is_followed(place):
    (place / "alias").symlink_to(place / "inside")
    with confined_to(place / "alias"):
        assert read_source(place / "alias" / "set")


def test_the_flag_stands_anywhere_and_takes_one_folder(tmp_path):
    words = ["test", "--model", "A", FLAG, "data", "--seed", "1"]
    assert take_flag(words) == (["test", "--model", "A", "--seed", "1"], "data")
    assert take_flag([f"{FLAG}=data", "test"]) == (["test"], "data")
    assert take_flag(["test"]) == (["test"], None)
    for wrong in ([FLAG], [f"{FLAG}="], [FLAG, "a", FLAG, "b"]):
        with pytest.raises(UserError, match=FLAG):
            take_flag(wrong)


def test_the_command_ends_in_one_line(place, capsys):
    listing = write_list(
        place / "inside" / "list.json", (str(place / "outside" / "secret.jpg"), "Negative")
    )
    assert main(["data", "check", str(listing), FLAG, str(place / "inside")]) != 0
    captured = capsys.readouterr()
    assert "lies outside" in captured.out + captured.err
    assert main([FLAG, str(place / "nowhere"), "data", "check", str(listing)]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_processes_to_come_keep_to_it(place):
    script = (
        "import sys; from sparsevit_plugin.harness.images import read_image\n"
        "try: read_image(sys.argv[1])\n"
        "except Exception as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(place / "outside" / "secret.jpg")]
    with confined_to(place / "inside"):
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "lies outside" in run.stdout
