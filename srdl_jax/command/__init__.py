# SPDX-License-Identifier: Apache-2.0
"""What all commands share: their names, flags, help, errors and ends."""

from srdl_jax.command import bundled, table
from srdl_jax.command.given import define_config, given_config
from srdl_jax.command.running import run

__all__ = ['bundled', 'define_config', 'given_config', 'run', 'table']
