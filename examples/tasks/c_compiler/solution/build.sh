#!/bin/sh
# Builds ./cc; needs rustc and nothing else.
set -eu
rustc --edition 2021 -C opt-level=1 -C debuginfo=0 -o cc src/main.rs
