"""Two pages: the demo, which compares three models on clips, and that of the user's own videos.

The demo. In: what `make demo` leaves (three models and the features of the clips). Out: a folder that runs without
this package, as a Space on the Hub or by `polyvid demo-app`.

`build.py` makes that folder. In it, `app.py` is the page, `search.py` ranks the clips, `render.py` writes the results
as HTML, `watch.py` decodes uploaded videos in a process of its own, and `limits.py` bounds what one visitor can ask
for. `screenshot.py` takes the picture in the README and drives the browser in the tests.

The user's own videos. In: a folder of videos and a model. Out: `polyvid app`, which `own_videos.py` is. It runs from
the package, and shares `limits.py`, `look.py` (colours and letters) and `style.css`.
"""
