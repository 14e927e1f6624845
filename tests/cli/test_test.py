"""What `benco test` prints when it is done."""

from sparsevit_plugin.cli.main import main


def test_the_printed_table_is_of_the_photographs_as_they_were_tested(tmp_path, make_set, capsys):
    make_set(tmp_path / "set", stems=["a", "b"])
    words = ["test", "--model", "RandomScores", "--image-size", "32", "--fit", "resize"]
    words += ["--test-data-path", str(tmp_path / "set"), "--output-dir", str(tmp_path / "run")]
    words += ["--num-workers", "0", "--device", "cpu"]
    assert main(words) == 0
    assert "jpeg:50" not in capsys.readouterr().out
    assert main([*words, "--perturbation", "jpeg:50"]) == 0
    assert "jpeg:50" in capsys.readouterr().out
