#!/bin/sh
# Starts $CAMOFLEET_FIREFOX without MOZ_CRASHREPORTER_SHUTDOWN, which Playwright sets: with it, Firefox shuts down when
# one content process crashes, and all pages and clients of the session are lost with one page.
unset MOZ_CRASHREPORTER_SHUTDOWN
exec "$CAMOFLEET_FIREFOX" "$@"
