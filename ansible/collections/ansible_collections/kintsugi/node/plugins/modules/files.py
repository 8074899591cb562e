"""Ansible module: all files of a service in one call."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: files
short_description: Write many small files at once
description:
  - Writes files whose content differs, each by a rename, so that a reader sees the old file or the new one.
  - One SSH round trip for a whole service, where a template task for each file costs one each.
options:
  directories:
    description: Directories to make first.
    type: list
    elements: str
    default: []
  files:
    description: The files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where.
        type: path
        required: true
      content:
        description: What.
        type: str
        required: true
      mode:
        description: Permission bits, octal, in quotes.
        type: str
        default: "0644"
      once:
        description: Leave a file alone that exists already.
        type: bool
        default: false
author: Kintsugi
"""

EXAMPLES = """
- name: Write two files
  kintsugi.node.files:
    files:
      - {path: /srv/a, content: "1"}
      - {path: /srv/b, content: "2", mode: "0600"}
"""

RETURN = """
written:
  description: Paths that were written.
  type: list
  returned: always
"""


def _differs(path: Path, content: str, mode: int, once: bool) -> bool:
    try:
        present = path.read_bytes()
    except FileNotFoundError:
        return True
    if once:
        return False
    return present != content.encode() or (path.stat().st_mode & 0o7777) != mode


def _write(path: Path, content: str, mode: int) -> None:
    fresh = path.with_name(f".{path.name}.fresh")
    with fresh.open("wb") as handle:
        os.fchmod(handle.fileno(), mode)
        handle.write(content.encode())
    fresh.replace(path)


def main() -> None:
    """Entry point of the module."""
    file_spec = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "once": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={
            "directories": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file_spec},
        },
        supports_check_mode=True,
    )
    made = [path for path in module.params["directories"] if not Path(path).is_dir()]
    due = [
        entry
        for entry in module.params["files"]
        if _differs(Path(entry["path"]), entry["content"], int(entry["mode"], 8), entry["once"])
    ]
    try:
        if not module.check_mode:
            for path in made:
                Path(path).mkdir(parents=True, exist_ok=True)
            for entry in due:
                _write(Path(entry["path"]), entry["content"], int(entry["mode"], 8))
    except OSError as error:
        module.fail_json(msg=f"cannot write {error.filename}: {error.strerror}")
    written = [entry["path"] for entry in due]
    module.exit_json(changed=bool(made or due), written=written)


if __name__ == "__main__":
    main()
