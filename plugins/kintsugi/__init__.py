"""Kintsugi: a streaming pipeline of options trades that rebuilds its own servers."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False  # as typing has it, which would be loaded for this alone
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

OLD_NAMES = {
    # The inventory plugin of a release that was built before the modules moved to their rooms.
    "kintsugi.errors": "kintsugi.core.errors",
    "kintsugi.fleet": "kintsugi.core.fleet",
    "kintsugi.settings": "kintsugi.core.settings",
    "kintsugi.local": "kintsugi.environments.local",
    "kintsugi.local.node_class_archives": "kintsugi.infra.class_data_sharing",
    "kintsugi.local.node_identity": "kintsugi.environments.local.node_identity",
    "kintsugi.local.node_isolation": "kintsugi.environments.local.node_isolation",
    "kintsugi.local.ssh": "kintsugi.infra.ssh",
    # Triggers that wait in Airflow's database.
    "kintsugi.triggers": "kintsugi.airflow_ext.triggers",
    "kintsugi.triggers.flow_health": "kintsugi.airflow_ext.triggers.flow_health",
    "kintsugi.triggers.new_objects": "kintsugi.airflow_ext.triggers.new_objects",
    "kintsugi.triggers.node_health": "kintsugi.airflow_ext.triggers.node_health",
    # The command of a container (terraform/modules/docker_node), which Terraform and the engine keep.
    "kintsugi.local.node_init": "kintsugi.environments.local.node_init",
    # Programs in the supervisord configuration of a control plane that has been running since before.
    "kintsugi.controlplane.executor": "kintsugi.controlplane.airflow_patches",
    "kintsugi.local.executor": "kintsugi.controlplane.airflow_patches",
    "kintsugi.local.run_airflow": "kintsugi.controlplane.launcher",
    "kintsugi.local.watchdog": "kintsugi.watchdog.watchdog",
}
"""Modules by the name that something stored knows them by. To be removed after one release."""


class _OldNames:
    """Finds a module under its old name: it is the same module."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        loader: Any = self
        return ModuleSpec(name, loader) if name in OLD_NAMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(OLD_NAMES[spec.name])
        self._spec = module.__spec__
        return module

    def get_code(self, name: str) -> CodeType | None:
        """For ``python -m``."""
        from importlib.util import find_spec

        found: Any = find_spec(OLD_NAMES[name])
        code: CodeType | None = found.loader.get_code(found.name)
        return code

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just put the old name there


sys.meta_path.insert(0, _OldNames())
