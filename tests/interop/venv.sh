# Sourced by runs that need packages of Python.

# Makes a venv with what `requirements.txt` beside the caller pins, unless it is there, and names its interpreter in `python`. PYTHON names
# the one it is made with (3.10 or newer; default python3).
make_venv() {
  local folder root venv stamp
  folder="$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)"
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
  venv="$root/target/interop/$(basename "$folder")-venv"
  stamp="$venv/requirements.installed"
  python="$venv/bin/python"
  # The stamp is written last, so an install that was cut short is done again from the start.
  if ! cmp -s "$folder/requirements.txt" "$stamp" || ! "$python" -c '' 2>/dev/null; then
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    "${PYTHON:-python3}" -m venv "$venv"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$folder/requirements.txt"
    cp "$folder/requirements.txt" "$stamp"
  fi
}
