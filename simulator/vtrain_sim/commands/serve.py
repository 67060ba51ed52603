"""``vtrain-sim serve``: a local page to turn the knobs on."""

from __future__ import annotations

import typer


def serve(
    port: int = typer.Option(8765, "--port", min=0, max=65535, help="Port on this machine; 0: any free one."),
    browser: bool = typer.Option(False, "--browser", help="Open the page in the browser."),
) -> None:
    """Show a page that projects while its knobs are turned: model, cluster, layout, step, precision.

    It listens on this machine alone, and writes nothing. Ctrl+C ends it.
    """
    from vtrain_sim.api import serve as api

    place = api.listen(port)
    answer = api.server(place)
    address = f"http://{api.LOOPBACK}:{place.getsockname()[1]}/"
    print(f"{address}  (Ctrl+C ends it)", flush=True)
    if browser:
        import webbrowser

        webbrowser.open(address)
    answer()
