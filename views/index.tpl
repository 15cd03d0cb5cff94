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
% def reference(problem):
%   code, request = problem.get('code'), problem.get('request_id')
%   return ', '.join(filter(None, (code and 'Error code ' + code, request and 'request ' + request)))
% end
%
% def receipt_entry(field, name, value):
          <div><dt>{{ name }}</dt><dd data-field="{{ field }}">{{ value }}</dd></div>
% end
%
% def body():
%   found = answer or {}
%   problem = error or {}
%   timings = found.get('timings_ms', {})
%   attempts = found.get('attempts', 1)
    <header class="intro">
      <h1>What is in your picture?</h1>
      <p class="lead">Show Spyglass a picture. It answers with its five best guesses, out of 1,000 things it knows.</p>
    </header>

    <div class="bench">
      <form id="upload" method="post" action="/" enctype="multipart/form-data"
            data-endpoint="/v1/classify?top_k=5" data-max-upload="{{ max_upload }}">
        <input id="file" type="file" name="image" accept="{{ accept }}" required
               aria-label="Choose one or more pictures" aria-describedby="limits">
        <label id="drop" for="file">
          <img id="preview" alt="" hidden>
%   include('reticle.tpl')
          <span class="prompt">
            <strong>Choose a picture</strong>
            <span class="pointer-only">or drop or paste one or more here</span>
          </span>
        </label>
        <p id="picture" class="caption"{{ '' if picture_name else ' hidden' }}>
          <bdi id="picture-name">{{ picture_name }}</bdi><span id="picture-size"></span><label class="another" for="file">Choose another</label>
        </p>
        <button id="send" type="submit">Recognise</button>
        <p id="limits" class="fine">JPEG, PNG, WebP, GIF or BMP, up to {{ megabytes(max_upload) }}.
          <span class="with-script">Or <input id="folder" type="file" webkitdirectory multiple aria-label="Choose a whole folder"><label for="folder">a whole folder</label>.</span></p>
      </form>

      <section id="result" data-state="{{ state }}" aria-label="Result" tabindex="-1">
        <p id="announce" class="visually-hidden" role="status"></p>

        <div data-when="empty"{{ ' hidden' if state != 'empty' else '' }}>
          <h2>No picture yet</h2>
          <p class="soft">Five guesses with their confidence, the worker that answered and the time it took appear here.</p>
        </div>

        <div data-when="busy" hidden>
          <h2 id="progress">Recognising…</h2>
          <div class="ghosts" aria-hidden="true"><i></i><i></i><i></i><i></i><i></i></div>
        </div>

        <div data-when="done"{{ ' hidden' if state != 'done' else '' }}>
          <h2 class="visually-hidden">The five best guesses</h2>
          <ol id="predictions" class="predictions">
%   for prediction in found.get('predictions', []):
%     prediction_row(prediction['label'], prediction['probability'])
%   end
          </ol>
          <h3 class="eyebrow">How it was answered</h3>
          <p id="rescue"{{ ' hidden' if attempts < 2 else '' }}>
            More than one worker tried; <bdi data-field="worker">{{ found.get('worker', '') }}</bdi> answered.
          </p>
          <dl id="receipt">
%   receipt_entry('worker', 'Worker', found.get('worker', ''))
%   receipt_entry('attempts', 'Tries', attempts)
%   receipt_entry('model', 'Model', found.get('model', ''))
%   for step, name in (('queue', 'Before this worker'), ('decode', 'Decoding'), ('infer', 'Model time'), ('total', 'Total')):
%     receipt_entry(step, name, '%.1f ms' % timings.get(step, 0))
%   end
%   receipt_entry('request_id', 'Request', found.get('request_id', ''))
          </dl>
        </div>

        <div id="error" data-when="error" role="alert"{{ ' hidden' if state != 'error' else '' }}>
          <h2 data-field="title">{{ problem.get('title', '') }}</h2>
          <p data-field="detail">{{ problem.get('detail', '') }}</p>
          <p class="fine" data-field="reference">{{ reference(problem) }}</p>
          <button id="again" type="button" hidden>Try again</button>
        </div>
      </section>

      <section id="samples" class="with-script" aria-labelledby="samples-title">
        <h2 id="samples-title" class="eyebrow">Or try one of these</h2>
%   for name in ('cat', 'coffee', 'rocket'):
        <button class="sample" type="button" data-sample="/static/samples/{{ name }}.jpg">
          <img src="/static/samples/{{ name }}-small.jpg" alt="" width="96" height="72" loading="lazy">
          <span>{{ name.capitalize() }}</span>
        </button>
%   end
      </section>
    </div>

    <section id="gallery" aria-labelledby="gallery-title" hidden>
      <p id="gallery-announce" class="visually-hidden" role="status"></p>
      <header class="intro">
        <div>
          <h1 id="gallery-title" tabindex="-1"></h1>
          <p id="gallery-line" class="lead"></p>
        </div>
        <p class="buttons">
          <button id="gallery-pause" class="quiet" type="button">Pause</button>
          <button id="gallery-add" class="quiet" type="button">Add pictures</button>
          <button id="gallery-close" class="quiet" type="button">Clear all</button>
        </p>
      </header>
      <progress id="gallery-progress" aria-label="Progress"></progress>
      <div class="toolbar">
        <label>Show <select id="gallery-filter"></select></label>
        <label>Sort by <select id="gallery-sort">
%   for value, words in (('added', 'order added'), ('name', 'file name'), ('label', 'label'), ('sure', 'most confident first'), ('unsure', 'least confident first')):
          <option value="{{ value }}">{{ words }}</option>
%   end
        </select></label>
        <button id="gallery-retry" class="quiet" type="button" hidden></button>
        <span class="buttons">
          <button id="gallery-csv" class="quiet" type="button">Save CSV</button>
          <button id="gallery-json" class="quiet" type="button">Save JSON</button>
        </span>
      </div>
      <ol id="cards"></ol>
    </section>

    <dialog id="detail" aria-labelledby="detail-name">
      <form method="dialog">
        <h2 id="detail-name"><bdi data-field="name"></bdi></h2>
        <button class="quiet">Close</button>
      </form>
      <div class="spread">
        <img id="detail-picture" alt="">
        <div>
          <h3 class="bad" data-field="title"></h3>
          <p data-field="detail"></p>
          <ol id="detail-predictions" class="predictions"></ol>
          <p id="detail-receipt" class="fine">Answered by <bdi data-field="worker"></bdi> in <span data-field="total"></span>, <span data-field="tries"></span>.<br>
            Request <code data-field="request_id"></code></p>
        </div>
      </div>
    </dialog>

    <template id="card">
      <li class="card">
        <button type="button">
          <span class="frame"><img alt="" decoding="async" hidden></span>
          <span class="label" data-field="label"></span>
          <span class="percent" data-field="percent"></span>
          <meter min="0" max="1" value="0" aria-hidden="true"></meter>
          <span class="why" data-field="detail"></span>
          <bdi class="file" data-field="name"></bdi>
        </button>
      </li>
    </template>
    <template id="prediction-row">
%   prediction_row()
    </template>
% end
% include('base.tpl', body=body, title='Upload', page='Upload', script='upload.js')
