# SPDX-License-Identifier: Apache-2.0
"""What `srdl_jax.report` is made of: runs read, tables, figures, documents."""
