import pytest

from rwloss.errors import RWLossError
from rwloss.files import toml


def test_what_is_written_is_read(tmp_path):
    values = {
        "text": "a 'b' \"c\" \n \\ \x7f \U0001f600",
        "numbers": [1, -2.5, 1e-30],
        "pair": (3, 4),
        "yes": True,
        "nothing": None,
        "table": {"a key": "rectified + dice", "nested": {"x": 1}},
    }
    toml.write(tmp_path / "file.toml", values)
    wanted = {**values, "pair": [3, 4]}
    del wanted["nothing"]
    assert toml.read(tmp_path / "file.toml") == wanted
    assert [file.name for file in tmp_path.iterdir()] == ["file.toml"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read .*: No such file"), (b"a = ", "not valid TOML"), (b"\xff", "not valid")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    file = tmp_path / "file.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RWLossError, match=rf"file\.toml.*{message}|{message}"):
        toml.read(file)
