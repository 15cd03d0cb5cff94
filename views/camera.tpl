% def figure(field, name):
          <div><dt>{{ name }}</dt><dd data-field="{{ field }}">–</dd></div>
% end
%
% def body():
    <header class="intro">
      <h1>Keep a lookout</h1>
      <p class="lead">Point a camera at something. Spyglass names what it sees, frame by frame, and keeps none of them.</p>
    </header>

    <div id="camera" class="bench" data-state="idle" data-side="{{ side }}">
      <section class="watch" aria-label="Picture">
        <div id="drop">
          <video id="video" muted playsinline aria-label="What the camera sees"></video>
%   include('reticle.tpl')
          <p class="prompt"><button id="start" class="with-script" type="button">Start the camera</button>
            <noscript>The camera needs JavaScript. Without it, <a href="/">upload a picture</a>.</noscript></p>
          <ol id="sights" aria-hidden="true"></ol>
          <p id="trouble" hidden></p>
        </div>
        <p class="caption buttons">
          <button id="stop" class="quiet" type="button" hidden>Stop the camera</button>
          <label id="choice" hidden>Camera <select id="cameras"></select></label>
        </p>
      </section>

      <section id="lookout" aria-label="Figures">
        <p id="announce" class="visually-hidden" role="status"></p>
        <div id="error" role="alert" hidden><h2 data-field="title"></h2><p data-field="detail"></p></div>
        <dl id="gauges" class="gauges" hidden>
%   figure('rate', 'Frames a second')
%   figure('round', 'Round trip')
%   figure('infer', 'Of it, computing')
%   figure('worker', 'Worker')
%   figure('answered', 'Answered')
%   figure('moved', 'Saved from a lost worker')
        </dl>
        <p id="idle" class="soft">The likeliest names appear over the picture; how fast it goes, and which worker looks, stands here.</p>
        <p class="fine">One frame is on its way at a time, always the newest, scaled down to {{ side }} pixels. Percentages are smoothed over the last few frames.</p>
      </section>
    </div>

    <template id="sight-row">
      <li class="sight"><span data-field="label"></span> <span data-field="percent"></span></li>
    </template>
% end
% include('base.tpl', body=body, title='Camera', page='Camera', script='camera.js')
