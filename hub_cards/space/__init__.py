"""The demo app: search clips with words in nine languages, or with a video, and compare three models.

In: what `make demo` leaves (three models and the features of the clips). Out: a folder that runs without this package,
as a Space on the Hub or by `polyvid demo-app`.

`build.py` makes that folder. In it, `app.py` is the page, `search.py` ranks the clips, `render.py` writes the results
as HTML, `watch.py` decodes uploaded videos in a process of its own, and `limits.py` bounds what one visitor can ask
for. `screenshot.py` takes the picture in the README and drives the browser in the tests.
"""
