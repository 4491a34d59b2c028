"""Converts the output of nccl-tests and nvbandwidth to a document. Pure.

Both are read as JSON (`-J FILE`, `-j`) and as the table that they print. Only numbers are used. Both tools write more,
such as the whole environment and host names, which is ignored. Formats according to their sources and to what was
published of their output: nccl-tests' src/util.cu and src/common.cu, JSON versions 2 and 3; nvbandwidth's
json_output.cpp and output.cpp, up to 0.10.
"""

from typing import Any

from runner.base.pasted import pasted
from runner.record.model import Document
from runner.record.tools.nccl_tests import nccl_tests_document, read_nccl_tests_json
from runner.record.tools.nccl_tests_text import is_nccl_tests_table, read_nccl_tests_table
from runner.record.tools.nvbandwidth import nvbandwidth_document, read_nvbandwidth_json
from runner.record.tools.nvbandwidth_text import is_nvbandwidth_table, read_nvbandwidth_table


def tool_document(data: Any, name: str) -> Document | None:
    """The document for the JSON of a known tool; None if the JSON is from another program.

    Raises:
        DocumentError: the JSON is from a known tool, but truncated, of an unknown version, or reports an error.
    """
    if not isinstance(data, dict):
        return None
    if {"nccl_version", "args"} <= data.keys():
        return nccl_tests_document(read_nccl_tests_json(data, name))
    if isinstance(data.get("nvbandwidth"), dict):
        return nvbandwidth_document(read_nvbandwidth_json(data["nvbandwidth"], name))
    return None


def text_document(text: str, name: str) -> Document | None:
    """The document for the printed table of a known tool; None if the text is from another program.

    Raises:
        DocumentError: the table is from a known tool, but truncated, of an unknown form, or reports an error.
    """
    text = pasted(text)
    if is_nccl_tests_table(text):
        return nccl_tests_document(read_nccl_tests_table(text, name))
    if is_nvbandwidth_table(text):
        return nvbandwidth_document(read_nvbandwidth_table(text, name))
    return None
