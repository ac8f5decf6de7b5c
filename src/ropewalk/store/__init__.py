"""How Ropewalk writes, reads, locks and compares files; no other package does it by itself.

files           atomic files and folders: write aside, fsync, rename
permissions     the user's umask, and hard links
folders         folders that a user names for results
lock            one process at a time (filelock)
hashes          SHA-256 of files and of JSON values
strict_json     the reader of JSON that others wrote or a disk damaged
documents       JSON files with a format and a version
json_lines      append-only lines that survive a torn tail
same_run        two identities, and what differs
disk_errors     an OSError as one line
"""

from ropewalk.store.disk_errors import disk_errors, reason_of
from ropewalk.store.documents import (
    as_line,
    check_envelope,
    envelope,
    read_document,
    read_json,
    read_lines,
    read_object,
    write_document,
    write_file,
    write_lines,
)
from ropewalk.store.files import (
    atomic_file,
    atomic_folder,
    bring_to_disk,
    clear_partials,
    partial_path,
    publish,
    read_bounded,
    remove_folder,
    write_atomically,
)
from ropewalk.store.folders import make_folder, names_in, remove_empty, require_empty
from ropewalk.store.hashes import describe_file, differences_from, hash_file, hash_files, hash_json
from ropewalk.store.json_lines import ChecksummedLines, DamagedLine, LineFile, whole_lines
from ropewalk.store.lock import LOCK, Lock, is_lock
from ropewalk.store.permissions import follow_umask, link_or_copy
from ropewalk.store.same_run import as_read, differences, require_same_run, without_places
from ropewalk.store.strict_json import JsonError, parse_json, require_text

__all__ = [
    "LOCK",
    "ChecksummedLines",
    "DamagedLine",
    "JsonError",
    "LineFile",
    "Lock",
    "as_line",
    "as_read",
    "atomic_file",
    "atomic_folder",
    "bring_to_disk",
    "check_envelope",
    "clear_partials",
    "describe_file",
    "differences",
    "differences_from",
    "disk_errors",
    "envelope",
    "follow_umask",
    "hash_file",
    "hash_files",
    "hash_json",
    "is_lock",
    "link_or_copy",
    "make_folder",
    "names_in",
    "parse_json",
    "partial_path",
    "publish",
    "read_bounded",
    "read_document",
    "read_json",
    "read_lines",
    "read_object",
    "reason_of",
    "remove_empty",
    "remove_folder",
    "require_empty",
    "require_same_run",
    "require_text",
    "whole_lines",
    "without_places",
    "write_atomically",
    "write_document",
    "write_file",
    "write_lines",
]
