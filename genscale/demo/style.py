"""The style sheet of the demo's page. Colours and fonts come from the theme, light and dark."""

CSS = """
.gradio-container .html-container { padding: 0; }
.gradio-container { max-width: 1360px !important; margin: 0 auto; padding: 0 12px !important; }
.gs-head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; padding: 18px 2px 6px; }
.gs-head h1 { color: var(--body-text-color); margin: 0; font-size: 1.6rem; font-weight: 650; letter-spacing: -0.02em; }
.gs-head p { margin: 0; color: var(--body-text-color-subdued); }
.gs-title { margin: 6px 2px 8px; font-size: 1rem; font-weight: 600; color: var(--body-text-color); }
.gs-form { gap: 14px; }
#search, #stop { white-space: nowrap; font-size: 0.95rem; }
@media (min-width: 900px) { .gs-form { position: sticky; top: 10px; align-self: flex-start; } }
.gs-note, .gs-plan, .gs-count { margin: 0 2px; color: var(--body-text-color-subdued); font-size: 0.88rem;
  line-height: 1.45; }
.gs-plan strong { color: var(--body-text-color); }
.gs-plan.gs-wrong { color: #c0362c; }
.gs-count { margin-bottom: 8px; }
.gs-about { font-size: 0.88rem; line-height: 1.45; color: var(--body-text-color-subdued); margin: 0 2px; }
.gs-options { width: 100%; border-collapse: collapse; font-size: 0.85rem; }
.gs-options td { padding: 5px 8px 5px 0; vertical-align: top; border-top: 1px solid var(--border-color-primary);
  overflow-wrap: anywhere; color: var(--body-text-color); }
.gs-options td:first-child { font-family: var(--font-mono); white-space: nowrap; overflow-wrap: normal; }
.gs-options small { color: var(--body-text-color-subdued); }

.gs-status { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 10px 14px 12px;
  background: var(--block-background-fill); }
.gs-status span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.gs-status strong { margin-right: 6px; }
.gs-bar { height: 6px; border-radius: 3px; margin-top: 8px; background: var(--border-color-primary);
  overflow: hidden; }
.gs-bar i { display: block; height: 100%; background: var(--color-accent); transition: width 0.25s linear; }
.gs-good strong { color: #16804a; } .gs-good .gs-bar i { background: #16804a; }
.dark .gs-good strong { color: #4cc38a; }
.gs-bad { border-color: #c0362c; } .gs-bad strong, .gs-bad span { color: #c0362c; } .gs-bad .gs-bar { display: none; }
.dark .gs-bad strong, .dark .gs-bad span, .dark .gs-plan.gs-wrong { color: #ff8f85; }
.gs-notes { margin: 8px 0 0; padding-left: 1.1em; font-size: 0.85rem; color: var(--body-text-color-subdued); }

.gs-empty { display: flex; flex-direction: column; gap: 2px; align-items: center; justify-content: center;
  min-height: 84px; padding: 14px; text-align: center; border: 1px dashed var(--border-color-primary);
  border-radius: 10px; color: var(--body-text-color-subdued); }

.gs-pair { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; }
.gs-pair figure { margin: 0; padding: 10px; border-radius: 10px; border: 1px solid var(--border-color-primary);
  background: var(--block-background-fill); min-width: 0; }
.gs-pair figure.gs-best { border: 2px solid #16804a; padding: 9px; }
.gs-pair figcaption { display: flex; flex-wrap: wrap; gap: 0 8px; align-items: baseline; margin-bottom: 8px; }
.gs-pair figcaption span { color: var(--body-text-color-subdued); font-size: 0.85rem; }
.gs-best figcaption strong { color: #16804a; } .dark .gs-best figcaption strong { color: #4cc38a; }
.gs-pair img, .gs-pair video { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px;
  image-rendering: pixelated; background: var(--background-fill-secondary); }
.gs-pair img, .gs-pair video, .gs-none { max-width: 290px; margin: 0 auto; }
.gs-none { display: flex; align-items: center; justify-content: center; aspect-ratio: 1; border-radius: 6px;
  background: var(--background-fill-secondary); color: var(--body-text-color-subdued); }
.gs-pair dl { margin: 8px 0 0; font-size: 0.9rem; }
.gs-pair dl div { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 8px; padding: 2px 0; }
.gs-pair dl dt { overflow-wrap: anywhere; } .gs-pair dl dd { margin: 0; font-variant-numeric: tabular-nums; }
.gs-pair dl em { font-style: normal; color: #16804a; } .dark .gs-pair dl em { color: #4cc38a; }
.gs-held { color: var(--body-text-color-subdued); border-top: 1px dashed var(--border-color-primary); }
.gs-held em { color: inherit !important; }
.gs-held small { text-transform: none; font-size: 0.75rem; padding: 0 5px; border-radius: 8px;
  margin-left: 3px;
  background: var(--background-fill-secondary); color: var(--body-text-color-subdued); white-space: nowrap; }

/* Gradio's gallery: as many columns as fit, the score below each image */
#gallery .grid-wrap { max-height: none; min-height: 0; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); grid-auto-rows: auto;
  height: auto; padding: 10px; gap: 10px; }
#gallery .gallery-container:has(.preview) { min-height: 420px; }
#gallery .thumbnail-lg { display: flex; flex-direction: column; aspect-ratio: auto; height: auto; min-width: 0; }
#gallery .thumbnail-lg img { aspect-ratio: 1; height: auto; }
#gallery .caption-label { position: static; width: 100%; max-width: 100%; border: 0; padding: 2px 4px;
  background: transparent; font-size: 0.75rem; text-align: center; font-variant-numeric: tabular-nums; }
#gallery img, #slider img { image-rendering: pixelated; }
#gallery .empty { min-height: 84px; }
#sampler input { text-overflow: ellipsis; margin-right: 18px; }
#table { width: 0; min-width: 100% !important; }  /* as wide as there is room for, whatever its columns */
#table .header-row { display: none; }

.gs-paper { background: #fff; border-radius: 10px; padding: 6px; border: 1px solid var(--border-color-primary); }
.gs-paper img { display: block; width: 100%; max-width: 900px; margin: 0 auto; }
.gs-paper { max-height: 620px; overflow: auto; }
#curve img { width: auto; max-width: 100%; max-height: 340px; }
.gs-command textarea { font-family: var(--font-mono) !important; font-size: 0.85rem !important; }
footer { display: none !important; }
@media (max-width: 520px) {
  .gradio-container .app { padding: 8px !important; }
  .gs-pair figure.gs-best { padding: 6px !important; }
  .gs-pair { gap: 8px; }
  .gs-pair figure { padding: 7px; }
  .gs-pair figcaption span { display: none; }
  #gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); } }
"""
