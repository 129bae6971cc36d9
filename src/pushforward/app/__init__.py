"""A page in the browser for trained models: `pushforward app RUN`. What it computes is apart from gradio, which only `page` needs.

`loaded` (the models), `asked` (what was typed, checked), `states` (from noise to data, step by step), `plane`, `pixels`, `likelihood`,
`painted`, `rows` and `prompts` compute; `pictures` draws; `words` has both languages; `views` has one file a tab; `page` and `serve`
join them.
"""
