        <svg class="reticle" viewBox="0 0 240 240" aria-hidden="true" focusable="false">
          <circle cx="120" cy="120" r="116"/>
          <circle class="ticks" cx="120" cy="120" r="109" pathLength="144"/>
          <circle class="points" cx="120" cy="120" r="107" pathLength="144"/>
          <circle cx="120" cy="120" r="98"/>
        </svg>
