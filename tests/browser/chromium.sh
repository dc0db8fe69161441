#!/bin/sh
# Make sure that there is a Chromium or a Chrome for tests/browser, and a font with Chinese characters for it.
set -eu
for name in "${CROSSRANK_CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable chrome \
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" "/Applications/Chromium.app/Contents/MacOS/Chromium"; do
    if [ -n "$name" ] && command -v "$name" >/dev/null; then exit 0; fi
done
as_root=
if [ "$(id -u)" -ne 0 ]; then as_root="sudo -n"; fi
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "Installing Chromium, for the tests of the page."
    $as_root apt-get update -qq
    if $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null; then exit 0; fi
fi
echo "The tests of the page need Chromium or Chrome, and there is none: install one, for instance by" >&2
echo "  apt-get install chromium    brew install --cask chromium    dnf install chromium" >&2
echo "or say where it is: CROSSRANK_CHROMIUM=/path/to/chromium" >&2
exit 1
