#!/usr/bin/env bash
# Makes benches/portcullis.profdata anew: what runs often in a gate, what does now and then, and what never, as a build that counts it saw
# when it was asked as the benchmarks ask (train.py), and by some of the interop runs. Release builds are laid out by it
# (docs/decisions/0020-laid-out-by-what-runs.md). Takes a build, and six minutes.
#
#   bash benches/peers/profile.sh
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
source "$root/tests/interop/venv.sh"
make_venv

tools="$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin"
[ -x "$tools/llvm-profdata" ] || rustup component add llvm-tools

# Symbols are named by where and for what they are built: the same folder layout, and no `--target`, as in the build that uses it.
built="$root/target/profile"
counts="$built/counts"
cd "$root"
LLVM_PROFILE_FILE=/dev/null cargo build --release --locked --workspace --bins --target-dir "$built" \
  --config "build.rustflags=['-Cprofile-generate=$counts']"
rm -rf "$counts"
"$python" "$here/train.py" "$built/release/portcullis" "$built/release/floor"
# Possession, introspection, gRPC, telemetry and assertions: what is asked less often, and is not to be laid aside as if it never were.
for run in oidc-provider grpc otlp assertion; do
  bash "$root/tests/interop/$run/run.sh" "$built/release/portcullis"
done
"$tools/llvm-profdata" merge --sparse --output "$root/benches/portcullis.profdata" "$counts"
