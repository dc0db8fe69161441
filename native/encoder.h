// The encoder: a group of pairs, from token ids to one logit for each, on one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "model.h"
#include "plan.h"
#include "prefixes.h"
#include "sharing.h"
#include "workspace.h"

namespace crossrank {

// What stands before a pair's own tokens: the first `rows` tokens of a prefix.
struct Before {
    Prefix* prefix = nullptr;
    int rows = 0;
};

// What all groups of one call have in common.
struct Call {
    const Model& model;
    const Kernels& kernels;
    bool attention_bf16;              // else attention is in fp32
    const std::int32_t* token_ids;    // (T)
    const std::int32_t* offsets;      // (pairs + 1)
    const std::int32_t* segment_ids;  // (T); null: all are 0
    const Before* before;             // (pairs); null: nothing
    float* out;  // (pairs); null: only keys and values are wanted, which go behind `before`
};

// Rows of a group; each is one token.
struct Rows {
    int from, to;
};

// Some or all rows of a group on their way through the model. Where several threads share the group, each has
// an encoder; which part of the work it does is up to its share.
class Encoder {
  public:
    // `workspace` is for `rows`, except that its k and v are for all rows of the group.
    Encoder(const Call& call, const Group& group, Rows rows, const Workspace& workspace, const Share& share);

    // Embeddings of one pair of the group, or of all. Reads the table of words and can fail, so it comes
    // before run(), in which threads wait for each other.
    void embed(std::size_t pair) const;
    void embed() const;

    // From embeddings to logits. Allocates nothing.
    void run();

  private:
    struct Place {
        Prefix* prefix;
        int token;
    };
    struct Chunk {
        int pair, row, queries;  // `row` has the first of the queries,
        int position;            // which is that of the pair's token
    };

    void attend(std::size_t layer, const std::vector<Chunk>& chunks, int rows);
    void rest_of_layer(std::size_t layer, int rows);
    void feed_forward(std::size_t layer, int first, int rows, int rows_to_normalise);
    void keep_pooled_rows() const;
    template <class Work>
    void each_pair(const Work& work);
    void pool();
    void match();
    float matched(std::size_t pair) const;
    void classify(float* pooled);

    void first_input(int r) const;
    void normalise(const Norm& norm, int r) const;
    void end_layer(std::size_t layer, int r) const;
    void norm_row(const Norm& norm, double epsilon, int size, const float* x, float* y) const;
    void turn_query(std::size_t layer, int r, int position) const;
    void finish_key(std::size_t layer, int r) const;
    void rotate(std::size_t layer, const Norm& norm, char* queries_or_keys, int heads, int position) const;
    void finish_part(const HeadPart& part, float* values) const;
    void set_input(const float* values, int width, std::ptrdiff_t r, bool rotated = true) const;

    int length(std::size_t pair) const { return first_row_[pair + 1] - first_row_[pair]; }
    Before before(std::size_t pair) const {
        return call_.before ? call_.before[group_.pairs[pair]] : Before{};
    }
    // Of the group's rows, that of the token that the head gets; of all tokens' mean, the first.
    int pooled_row(std::size_t pair) const {
        return model_.config.pooling == Pooling::last ? first_row_[pair + 1] - 1 : first_row_[pair];
    }
    float* row(std::ptrdiff_t r) const;
    char* keys(std::size_t layer) const { return w_.k + (layer % 2 ? w_.next_keys : 0); }
    char* values(std::size_t layer) const { return w_.v + (layer % 2 ? w_.next_keys : 0); }
    char* own(char* of_all) const { return of_all + rows_.from * w_.key_stride; }
    bool rotary() const { return !model_.config.rotary_of_layer.empty(); }
    char* scratch() const { return w_.scratch + static_cast<std::size_t>(share_.rank()) * w_.scratch_bytes; }
    Activations input(int rows, std::ptrdiff_t first = 0) const;
    Output queries() const;
    Output keys_or_values(char* to) const;
    Output residual(std::ptrdiff_t first) const;

    const Call& call_;
    const Model& model_;
    const Kernels& kernels_;
    const Group& group_;
    const Rows rows_;
    const Workspace w_;
    Share share_;
    const int hidden_, query_width_;
    const Precision precision_;
    std::vector<std::int32_t> first_row_;  // of each pair in the group; and the number of rows
    std::vector<int> position_;            // of each row in its pair
    std::vector<Place> kept_;              // where each row's keys and values go, if they are kept
    std::vector<Chunk> chunks_;            // the queries of one task of attention
    std::vector<Chunk> pooled_;            // the same for the last layer, of which the head gets one token
};

}  // namespace crossrank
