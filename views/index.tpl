% state = 'error' if error else 'done' if answer else 'empty'
%
% def percent(probability):
%   return '< 0.1%' if 0 < probability < 0.0005 else '%.1f%%' % (100 * probability)
% end
%
% def megabytes(size):
%   return '%g MB' % round(size / 1e6, 1) if size >= 1e5 else '%g kB' % round(size / 1e3, 1)
% end
%
% # Each row is written once: the page shows it, and the script copies it from a <template>.
% def prediction_row(label='', probability=0):
          <li class="prediction">
            <span class="label" data-field="label">{{ label }}</span>
            <span class="percent" data-field="percent">{{ percent(probability) }}</span>
            <meter min="0" max="1" value="{{ probability }}" aria-hidden="true"></meter>
          </li>
% end
%
% def receipt_entry(field, name, value):
          <div><dt>{{ name }}</dt><dd data-field="{{ field }}">{{ value }}</dd></div>
% end
%
% def reticle():
        <svg class="reticle" viewBox="0 0 240 240" aria-hidden="true" focusable="false">
          <circle cx="120" cy="120" r="116"/>
          <circle class="ticks" cx="120" cy="120" r="109" pathLength="144"/>
          <circle class="points" cx="120" cy="120" r="107" pathLength="144"/>
          <circle cx="120" cy="120" r="98"/>
        </svg>
% end
%
% def body():
%   found = answer or {}
%   problem = error or {}
%   timings = found.get('timings_ms', {})
%   attempts = found.get('attempts', 1)
    <header class="intro">
      <h1>What have you sighted?</h1>
      <p class="lead">Show Spyglass a picture. It answers with the five likeliest of a thousand names.</p>
    </header>

    <div class="bench">
      <form id="upload" method="post" action="/" enctype="multipart/form-data"
            data-endpoint="/v1/classify?top_k=5" data-max-upload="{{ max_upload }}">
        <input id="file" type="file" name="image" accept="{{ accept }}" required
               aria-label="Choose a picture" aria-describedby="limits">
        <label id="drop" for="file">
          <img id="preview" alt="" hidden>
%   reticle()
          <span class="prompt">
            <strong>Choose a picture</strong>
            <span class="pointer-only">or drop it here, or paste&nbsp;it</span>
          </span>
        </label>
        <p id="picture" class="caption"{{ '' if picture_name else ' hidden' }}>
          <bdi id="picture-name">{{ picture_name }}</bdi><span id="picture-size"></span><label class="another" for="file">Choose another</label>
        </p>
        <button id="send" type="submit">Recognise</button>
        <p id="limits" class="fine">JPEG, PNG, WebP, GIF or BMP, up to {{ megabytes(max_upload) }}.</p>
      </form>

      <section id="result" data-state="{{ state }}" aria-label="Result" tabindex="-1">
        <p id="announce" class="visually-hidden" role="status"></p>

        <div data-when="empty"{{ ' hidden' if state != 'empty' else '' }}>
          <h2>Nothing in sight yet</h2>
          <p class="soft">The five likeliest names appear here, each with how sure Spyglass is, and below them who did the looking and how long it took.</p>
        </div>

        <div data-when="busy" hidden>
          <h2 id="progress">Looking…</h2>
          <div class="ghosts" aria-hidden="true"><i></i><i></i><i></i><i></i><i></i></div>
        </div>

        <div data-when="done"{{ ' hidden' if state != 'done' else '' }}>
          <h2 class="visually-hidden">The five likeliest names</h2>
          <ol id="predictions">
%   for prediction in found.get('predictions', []):
%     prediction_row(prediction['label'], prediction['probability'])
%   end
          </ol>
          <h3 class="eyebrow">Receipt</h3>
          <p id="rescue"{{ ' hidden' if attempts < 2 else '' }}>
            A worker was lost while it held your picture. <bdi data-field="worker">{{ found.get('worker', '') }}</bdi>
            took over, and here is your answer all the same.
          </p>
          <dl id="receipt">
%   receipt_entry('worker', 'Worker', found.get('worker', ''))
%   receipt_entry('attempts', 'Attempts', attempts)
%   receipt_entry('model', 'Model', found.get('model', ''))
%   for step in ('queue', 'infer', 'total'):
%     receipt_entry(step, step.capitalize(), '%.1f ms' % timings.get(step, 0))
%   end
%   receipt_entry('request_id', 'Request', found.get('request_id', ''))
          </dl>
        </div>

        <div id="error" data-when="error" role="alert"{{ ' hidden' if state != 'error' else '' }}>
          <h2 data-field="title">{{ problem.get('title', '') }}</h2>
          <p data-field="detail">{{ problem.get('detail', '') }}</p>
          <p class="fine"><span data-field="code">{{ problem.get('code', '') }}</span> <code data-field="request_id">{{ problem.get('request_id', '') }}</code></p>
          <button id="again" type="button" hidden>Try again</button>
        </div>
      </section>

      <section id="samples" aria-labelledby="samples-title" hidden>
        <h2 id="samples-title" class="eyebrow">Or try one of these</h2>
%   for name in ('cat', 'coffee', 'rocket'):
        <button class="sample" type="button" data-sample="/static/samples/{{ name }}.jpg">
          <img src="/static/samples/{{ name }}.jpg" alt="" width="96" height="72" loading="lazy">
          <span>{{ name.capitalize() }}</span>
        </button>
%   end
      </section>
    </div>

    <template id="prediction-row">
%   prediction_row()
    </template>
% end
% include('base.tpl', body=body, title='Upload', page='Upload', script='upload.js')
