#!/bin/sh
# Make sure that there is a Chromium or a Chrome for tests/browser, and a font with Chinese characters for it.
# Nothing here asks for more rights than the caller has: there is no sudo.
set -eu
for name in "${CROSSRANK_CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable chrome \
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" "/Applications/Chromium.app/Contents/MacOS/Chromium"; do
    if [ -n "$name" ] && command -v "$name" >/dev/null; then exit 0; fi
done
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Chromium, for the tests of the page."
    apt-get update -qq
    if env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null; then exit 0; fi
fi
# Playwright's own Chromium goes into the user's cache, and is left alone where it is there.
if command -v "${PLAYWRIGHT:-playwright}" >/dev/null && "${PLAYWRIGHT:-playwright}" install chromium; then exit 0; fi
echo "The tests of the page need Chromium or Chrome, and there is none: install one, for instance by" >&2
echo "  apt-get install chromium    brew install --cask chromium    dnf install chromium" >&2
echo "or say where it is: CROSSRANK_CHROMIUM=/path/to/chromium" >&2
exit 1
