// A depthwise convolution with the pointwise ones beside it in one pass: a few channels at a time go back from their coefficients to rows of
// a map, through the depthwise convolution, and forward to coefficients again, so that the wide maps in between are never written down.

#include "fused.h"

#include "blocks.h"
#include "taps.h"

#include <optional>

namespace spectrim {
namespace {

constexpr int64_t CACHED = 256 * 1024;  // numbers of coefficients that images done together have at most, if they are several
constexpr int64_t ROWS_AT_ONCE = 8;     // of a map without blocks

int64_t ceil_of(int64_t count, int64_t by) { return (count + by - 1) / by; }

struct Side {  // a pointwise convolution, or none
  const Pointwise& told;
  std::optional<Layer> layer;  // where it has bands
  const Blocks* blocks = nullptr;
  int64_t rows;                // of the map in a strip
  int64_t outs;                // vectors

  explicit Side(const Pointwise& told) : told(told), rows(ROWS_AT_ONCE), outs(ceil_of(told.bands.out, LANES)) {
    if (told.packed != nullptr && told.bands.block > 1) {
      layer.emplace(told.bands);
      blocks = &Blocks::of(told.bands.block);
      rows = told.bands.block;
    }
  }
  bool banded() const { return layer.has_value(); }

  // A plain product of pixels with one panel; the last few go through a copy, because whole products read more rows than there are.
  void multiply(const float* pixels, int64_t step, int64_t count, int64_t index, float* total) const {
    const Panel p = panel(outs, index);
    const float* weight = told.packed + p.first * LANES * told.bands.in;
    const int64_t whole = count / ROWS * ROWS;
    for (int64_t row = 0; row < whole; row += ROWS)
      PRODUCTS[p.vectors](pixels + row * step, step, weight, told.bands.in, total + row * p.vectors * LANES);
    if (whole == count) return;
    float* rest = scratch(Scratch::REST, ROWS * step);
    std::memcpy(rest, pixels + whole * step, ((count - whole - 1) * step + told.bands.in) * sizeof(float));
    PRODUCTS[p.vectors](rest, step, weight, told.bands.in, total + whole * p.vectors * LANES);
  }

  // Bias and activation of a product with one panel, pixel by pixel.
  void write(const float* total, int64_t count, const Panel& p, float* to, int64_t step, int64_t channels) const {
    float shift[3 * LANES] = {};
    const int64_t first = p.first * LANES, width = p.vectors * LANES, known = std::min(width, told.bands.out - first);
    if (told.bias != nullptr) std::memcpy(shift, told.bias + first, known * sizeof(float));
    const Clamp clamp{told.bands.written.low, told.bands.written.high};
    for (int64_t pixel = 0; pixel < count; ++pixel)
      for (int64_t lane = 0; lane < width; lane += LANES) {
        const vec sum = clamp(load(total + pixel * width + lane) + load(shift + lane));
        float* here = to + pixel * step + lane;
        if (lane + LANES <= channels) {
          store(here, sum);
        } else if (lane < channels) {
          float some[LANES];
          store(some, sum);
          std::memcpy(here, some, (channels - lane) * sizeof(float));
        }
      }
  }
};

class Fused {
 public:
  Fused(const Pointwise& expand, const Depthwise& depthwise, const Pointwise& project, const Maps& maps, const float* x, float* y)
      : expand_(expand), project_(project), depthwise_(depthwise), maps_(maps), middle_(project.bands.in),
        vectors_(ceil_of(project.bands.in, LANES)), strips_(ceil_of(maps.height, expand_.rows)),
        left_strips_(ceil_of(depthwise.height, project_.rows)), step_(Layer::stepped(middle_)) {
    const Maps left{maps.images, depthwise.height, depthwise.width};
    x_ = maps_at(x, maps, expand.packed == nullptr ? middle_ : expand.bands.in);
    y_ = maps_at(y, left, project.bands.out);
    blocks_ = expand_.banded() ? ceil_of(maps.width, expand_.rows) : 0;
    left_blocks_ = project_.banded() ? ceil_of(depthwise.width, project_.rows) : 0;
    strip_ = expand_.banded() ? expand_.layer->coefficients(blocks_) : 0;
    left_strip_ = project_.banded() ? project_.layer->coefficients(left_blocks_) : padded(project_.rows * depthwise.width) * step_;
  }

  void run(int threads) {
    const int64_t each = strips_ * strip_ + left_strips_ * left_strip_;
    const int64_t together = std::min(maps_.images, std::max<int64_t>(1, CACHED / each));
    float* read = scratch(Scratch::SPECTRUM, std::max<int64_t>(1, together * strips_ * strip_));
    float* wide = scratch(Scratch::OTHER_SPECTRUM, together * left_strips_ * left_strip_);
    const int64_t panels = count_panels(vectors_), outs = count_panels(project_.outs);
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t first = 0; first < maps_.images; first += together) {
      const int64_t images = std::min(together, maps_.images - first);
      if (expand_.banded()) {
#pragma omp for
        for (int64_t task = 0; task < images * strips_; ++task) there(first * strips_ + task, read + task * strip_);
      }
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < panels * images; ++task) {
        const int64_t image = task % images;
        middle(first + image, task / images, read + image * strips_ * strip_, wide + image * left_strips_ * left_strip_);
      }
#pragma omp for schedule(dynamic)
      for (int64_t task = 0; task < outs * images * left_strips_; ++task) {
        const int64_t strip = task % (images * left_strips_);
        back(first * left_strips_ + strip, task / (images * left_strips_), wide + strip * left_strip_);
      }
    }
  }

 private:
  Side expand_, project_;
  const Depthwise& depthwise_;
  Maps maps_;
  int64_t middle_, vectors_, strips_, left_strips_, step_;
  Field<const float> x_;
  Field<float> y_;
  int64_t blocks_, left_blocks_, strip_, left_strip_;  // blocks across, and numbers of a strip

  // A strip of the input to its coefficients.
  void there(int64_t strip, float* spectrum) const {
    const Tile tile{strip * blocks_, blocks_};
    for (int64_t block = 0; block < blocks_; ++block)
      expand_.blocks->there(*expand_.layer, expand_.told.bands.read, x_, tile, block, 0, expand_.layer->parts, spectrum);
  }

  // One strip of the map in the middle, a panel of its channels, into a ring of rows.
  void produce(int64_t image, int64_t strip, int64_t index, const float* spectrum, float* ring, int64_t down) const {
    const Panel p = panel(vectors_, index);
    const int64_t width = p.vectors * LANES, top = strip * expand_.rows, rows = std::min(expand_.rows, maps_.height - top);
    if (expand_.banded()) {
      const Layer& layer = *expand_.layer;
      float* total = scratch(Scratch::TOTAL, layer.totals(blocks_, p.vectors));
      layer.multiply(spectrum + strip * strip_, blocks_, index, expand_.told.packed, total);
      const Field<float> map{ring, expand_.rows, blocks_ * expand_.rows, width, 0, down, width};
      expand_.blocks->back(layer, layer.bands.written, expand_.told.bias, map, {0, blocks_}, p, total);
      for (int64_t row = 0; row < rows && map.width > maps_.width; ++row)  // zeros again, where blocks reach over the edge
        std::memset(ring + row * down + maps_.width * width, 0, (map.width - maps_.width) * width * sizeof(float));
      return;
    }
    const float* from = x_.at + image * x_.image + top * x_.down;
    if (expand_.told.packed != nullptr) {
      float* total = scratch(Scratch::TOTAL, padded(rows * maps_.width) * width);
      expand_.multiply(from, x_.across, rows * maps_.width, index, total);
      for (int64_t row = 0; row < rows; ++row)
        expand_.write(total + row * maps_.width * width, maps_.width, p, ring + row * down, width, width);
      return;
    }
    const int64_t first = p.first * LANES, channels = std::min(width, middle_ - first);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t pixel = 0; pixel < maps_.width; ++pixel)
        std::memcpy(ring + row * down + pixel * width, from + row * x_.down + pixel * x_.across + first, channels * sizeof(float));
  }

  // A panel of channels of one image, from the coefficients on one side to those on the other.
  void middle(int64_t image, int64_t index, const float* spectrum, float* wide) const {
    const Depthwise& d = depthwise_;
    const Panel p = panel(vectors_, index);
    const int64_t width = p.vectors * LANES, first = p.first * LANES;
    const int64_t columns = std::max(d.left + std::max(blocks_ * expand_.rows, maps_.width), (d.width - 1) * d.stride + d.kernel);
    const int64_t down = columns * width, held = expand_.rows * (1 + ceil_of(d.kernel - 1, expand_.rows));
    float* ring = scratch(Scratch::MAP, (held + 1) * down);
    float* zeros = ring + held * down;
    for (int64_t row = 0; row < held; ++row) {
      std::memset(ring + row * down, 0, d.left * width * sizeof(float));
      std::memset(ring + row * down + (d.left + maps_.width) * width, 0, (columns - d.left - maps_.width) * width * sizeof(float));
    }
    std::memset(zeros, 0, down * sizeof(float));
    const bool banded = project_.banded();
    const int64_t across = banded ? width : step_;
    float* strip = banded ? scratch(Scratch::STRIP, project_.rows * d.width * width) : nullptr;
    const DepthwiseRow row_of = depthwise_row_of(d.kernel, d.stride);
    const Taps taps{d.weight + first, vectors_ * LANES, d.bias + first, d.written.limited(), {d.written.low, d.written.high}};
    int64_t done = 0;
    for (int64_t s = 0; s < strips_; ++s) {
      produce(image, s, index, spectrum, ring + s * expand_.rows % held * down + d.left * width, down);
      const int64_t known = std::min(maps_.height, (s + 1) * expand_.rows);
      for (; done < d.height && (known == maps_.height || done * d.stride - d.above + d.kernel <= known); ++done) {
        const float* rows[5];
        for (int k = 0; k < d.kernel; ++k) {
          const int64_t row = done * d.stride - d.above + k;
          rows[k] = row < 0 || row >= maps_.height ? zeros : ring + row % held * down;
        }
        const int64_t at = done % project_.rows, which = done / project_.rows;
        float* to = banded ? strip + at * d.width * width : wide + which * left_strip_ + at * d.width * step_ + first;
        row_of(rows, width, p.vectors, taps, to, across, d.width);
        if (banded && (at + 1 == project_.rows || done + 1 == d.height)) {
          const Field<const float> map{strip - first, at + 1, d.width, first + width, 0, d.width * width, width};
          for (int64_t block = 0; block < left_blocks_; ++block)
            project_.blocks->there(*project_.layer, Limits{}, map, {0, left_blocks_}, block, p.first, p.first + p.vectors,
                                   wide + which * left_strip_);
        }
      }
    }
  }

  // A strip of coefficients to the output, a panel of its channels.
  void back(int64_t strip, int64_t index, const float* wide) const {
    const Panel p = panel(project_.outs, index);
    const int64_t first = p.first * LANES;
    if (project_.banded()) {
      const Layer& layer = *project_.layer;
      float* total = scratch(Scratch::TOTAL, layer.totals(left_blocks_, p.vectors));
      layer.multiply(wide, left_blocks_, index, project_.told.packed, total);
      Field<float> map = y_;
      map.at += first;
      map.channels -= first;
      project_.blocks->back(layer, layer.bands.written, project_.told.bias, map, {strip * left_blocks_, left_blocks_}, p, total);
      return;
    }
    const int64_t image = strip / left_strips_, top = strip % left_strips_ * project_.rows;
    const int64_t count = std::min(project_.rows, y_.height - top) * y_.width;
    float* total = scratch(Scratch::TOTAL, padded(count) * p.vectors * LANES);
    project_.multiply(wide, step_, count, index, total);
    project_.write(total, count, p, y_.at + image * y_.image + top * y_.down + first, y_.across, y_.channels - first);
  }
};

}  // namespace

void fuse(const Pointwise& expand, const Depthwise& depthwise, const Pointwise& project, const Maps& maps, const float* x,
          float* y, int threads) {
  Fused(expand, depthwise, project, maps, x, y).run(threads);
}

}  // namespace spectrim
