% def figure(field, name):
          <div><dt>{{ name }}</dt><dd data-field="{{ field }}">–</dd></div>
% end
%
% def body():
    <header class="intro">
      <h1>Live camera</h1>
      <p class="lead">Point a camera at something. Spyglass recognises it frame by frame and stores nothing.</p>
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

      <section id="camera-figures" aria-label="Figures">
        <p id="announce" class="visually-hidden" role="status"></p>
        <div id="error" role="alert" hidden><h2 data-field="title"></h2><p data-field="detail"></p></div>
        <dl id="gauges" class="gauges" hidden>
%   figure('rate', 'Frames per second')
%   figure('round', 'Round trip')
%   figure('infer', 'Model time')
%   figure('worker', 'Worker')
%   figure('answered', 'Answered')
%   figure('moved', 'More than one try')
        </dl>
        <p id="idle" class="soft">The best guesses appear over the picture; speed and worker appear here.</p>
        <p class="fine">Only the newest frame is sent, one at a time, scaled to {{ side }} pixels. Percentages are smoothed over the last few frames.</p>
      </section>
    </div>

    <template id="sight-row">
      <li class="sight"><span data-field="label"></span> <span data-field="percent"></span></li>
    </template>
% end
% include('base.tpl', body=body, title='Camera', page='Camera', script='camera.js')
