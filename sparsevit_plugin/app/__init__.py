"""`benco app`: a page in the browser that shows where a photograph was tampered with.

`looking` is what the page does, without a page; `page` lays it out with Gradio; `server` serves it.
"""
