#!/usr/bin/env bash
# Makes the screenshots in docs/figures anew, from seven short runs of configs/start.yaml: two algorithms with three seeds
# each, and one that is looked at while it goes on. It takes some minutes, and needs Chromium and the extras smax and video.
#   jobs/screenshots.sh [FOLDER]       FOLDER: where to write them instead

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(mkdir -p "${1:-$here/docs/figures}" && cd "${1:-$here/docs/figures}" && pwd)
[[ ! -e $here/.venv ]] || source "$here/.venv/bin/activate"
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo 'error: none of chromium, chromium-browser, google-chrome is installed' >&2
    exit 2
}
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"

# shot ADDRESS WIDTH HEIGHT NAME [0: dark, 1: light]
shot() {
    local address=$1 window=$2
    # A window of Chromium has a least width, which is more than a phone's: that page is shown in a frame.
    if (($2 < 500)); then
        echo "<style>body{margin:0}iframe{border:0}</style><iframe width=$2 height=$3 src='$1'></iframe>" > frame.html
        address=file://$folder/frame.html
        window=500
    fi
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="$window,$3" \
        --user-data-dir="$folder/profile" --allow-file-access-from-files \
        --blink-settings=preferredColorScheme="${5:-1}" --screenshot="$folder/shot.png" "$address" 2> browser.log
    small shot.png "$2" "$3" "$out/$4"
}

# small FILE WIDTH HEIGHT TO: the left upper part of a picture, in 128 colours
small() {
    python - "$@" << 'PYTHON'
import sys
from PIL import Image

name, width, height, to = sys.argv[1:]
picture = Image.open(name)
frames = getattr(picture, "n_frames", 1)
picture.seek(frames // 3)  # of a video, the middle of the battle
picture = picture.convert("RGB")
picture = picture.crop((0, 0, min(int(width), picture.width), min(int(height), picture.height)))
picture.quantize(128, dither=Image.Dither.NONE).save(to, optimize=True)
print(to)
PYTHON
}

train() {
    sde-harl run "$here/configs/start.yaml" eval.interval=10000 "$@"
}

sde-harl play "$here/docs/trained/3s5z" --episodes 1 --video battle.gif
small battle.gif 9999 9999 "$out/play.png"

train train.steps=1000000 record.dir=now > now.log &
# By then every table has something to show.
until grep -q '^evaluation at 20,' now.log; do
    kill -0 $! || exit 1
    sleep 1
done
FORCE_COLOR=1 sde-harl live now --once > live.txt
python - << 'PYTHON'
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

console = Console(record=True, width=102, file=open("rendered.txt", "w"))
console.print("$ sde-harl live latest")
console.print(Text.from_ansi(Path("live.txt").read_text()))
console.save_html("live.html", theme=MONOKAI)
PYTHON
sde-harl live now --web --port 0 > live.log &
until grep -q http live.log; do sleep 1; done
shot "$(grep -o 'http[^ ]*' live.log)" 1000 540 live.png
kill $(jobs -p)
wait
shot "file://$folder/live.html" 1010 440 live-terminal.png

for algo in happo mappo; do
    for seed in 1 2 3; do
        train train.steps=60000 algo.name=$algo seed=$seed
    done
done
sde-harl report results --out report.html
shot "file://$folder/report.html" 1280 1000 report.png
shot "file://$folder/report.html" 390 1000 report-phone.png 0
