"""Errors as one line that any terminal can show."""

from autotok.errors import UnknownName, failure, nearest, printable


def test_what_is_no_text_is_written_as_escapes_and_the_rest_stays() -> None:
    assert printable("größe 模型") == "größe 模型"
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"


def test_only_a_close_name_is_suggested() -> None:
    assert nearest("tomee", ["tome", "evit"]) == " did you mean 'tome'?"
    assert nearest("zzz", ["tome", "evit"]) == ""
    assert "did you mean" not in str(UnknownName("method", "zzz", ["tome"]))


def test_an_exception_is_its_first_line_and_too_little_memory_is_called_that() -> None:
    assert failure(ValueError("one\ntwo")) == "ValueError: one"
    assert failure(KeyError()) == "KeyError: no message"
    assert failure(MemoryError()) == "out of memory (MemoryError: no message)"
    cuda = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    assert failure(cuda).startswith("out of memory (RuntimeError: CUDA out of memory")


def test_a_verb_that_lists_names_is_given_only_where_there_is_one() -> None:
    many = [f"name{i}" for i in range(50)]
    assert str(UnknownName("method", "x", many)).endswith("50 names, see `autotok methods`")
    assert str(UnknownName("bell", "x", many, see="ring")).endswith("50 names, see `ring`")
    assert "autotok" not in str(UnknownName("proxy network", "x", many))
